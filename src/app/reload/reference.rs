//! docs/configuration.md against the code: that it names every field and no other, with its default, and says truly whether a
//! changed one is in force without a restart.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{changes, need_restart, take_over};
use crate::config::{self, Config};

/// Together they have every field; each is right.
const FILES: [&str; 2] = [
    "
apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: ['127.0.0.1:51003', '169.254.20.11:51003']
  writeTimeout: 16m
  tls:
    certFile: /s.crt
    keyFile: /s.key
    clientCAFile: /ca.crt
    clientCRLFile: /clients.crl
    clientCAConfigMapRef: {namespace: kube-system, name: clients, key: client-ca-file, client: system:node:edge-1}
    csr: {client: system:node:edge-1, signerName: example.com/serving, usages: [server auth, digital signature, key encipherment],
      expirationSeconds: 2592000, clusterDomain: edge.example, names: [edge-1.example], directory: /serving}
  dummyInterface: {name: edgehold0, addresses: [169.254.20.11, 169.254.20.12], removeOnExit: true}
upstream:
  servers: ['https://203.0.113.10:6443', 'https://203.0.113.11:6443']
  caFile: /ca.crt
  caConfigMapRef: {namespace: default, name: kube-root-ca.crt, key: root.crt, client: system:node:edge-1}
  proxyURL: 'http://proxy:3128'
  proxyCredentialsFile: /proxy
  noProxy: [10.0.0.0/8, .example]
  interfaces: [eth0, wwan0]
  connectTimeout: 3s
  responseTimeout: 6s
  strategy: roundRobin
  tlsServerName: kubernetes.default.svc
  compression: 'off'
  trustGateway: true
  probe: {interval: 6s, timeout: 3s, failureThreshold: 3, successThreshold: 4}
  keepAlive: {interval: 4s, timeout: 2s}
clients:
- {commonName: edgehold:edge-1, secretRef: {namespace: edge, name: edge-1, client: system:node:edge-1}}
- {commonName: system:node:edge-1, certFile: /n.pem, keyFile: /n.pem, limits: {qps: 100, burst: 200, inFlight: 40, watches: 400}, priority: 200}
- {commonName: system:node:edge-2, certFile: /m.pem, keyFile: /m.pem}
defaultClient: {limits: {qps: 0.5, burst: 100, inFlight: 10, watches: 200}}
certificates: {reloadInterval: 31m, retryInterval: 2s}
cache: {store: memory, path: /cache, maxSize: 2GiB, sync: interval, encryption: {keyFile: /cache.key}}
inCluster:
  address: 169.254.20.11:51003
  serviceFor: [system:node:edge-1]
  endpointsFor: [system:serviceaccount:kube-system:kube-proxy]
admin: {address: '127.0.0.1:51004', tokenFile: /admin.token}
offline: {expiry: strict, reviews: 5m, issuer: {tokenFile: /token, refreshInterval: 2h, audiences: ['https://k']}}
log: {format: json, level: debug}
",
    "
apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen: {tls: {clientCAFile: /ca.crt, secretRef: {namespace: edge, name: serving, client: system:node:edge-1}}}
upstream: {servers: ['https://203.0.113.10:6443'], caFile: /ca.crt}
clients:
- {commonName: system:node:edge-1, certFile: /n.pem, keyFile: /n.pem}
- {commonName: system:node:edge-2, certFile: /m.pem, keyFile: /m.pem}
cache: {encryption: {credential: key}}
inCluster: {addresses: ['169.254.20.11:51003', '[fd00::1]:51003']}
offline: {issuer: {commonName: system:node:edge-1}}
",
];

/// Values of which one is another good value of any text.
const OTHERS: [&str; 16] = [
    "/another",
    "7s",
    "3GiB",
    "127.0.0.1:7001",
    "http://another:3128",
    "system:node:edge-2",
    "another.example",
    "example.com/another",
    "another",
    "auto",
    "file",
    "lastContact",
    "priority",
    "text",
    "info",
    "169.254.20.11:7001",
];

/// A row of one of the tables.
struct Row {
    field: &'static str,
    default: &'static str,
    reload: &'static str,
}

fn rows() -> Vec<Row> {
    let docs = include_str!("../../../docs/configuration.md");
    let rows = docs.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row: &'static str| {
        let cells: Vec<&str> = row
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ']))
            .collect();
        assert_eq!(cells.len(), 6, "{row}");
        Row {
            field: cells[0].trim_matches('`'),
            default: cells[2],
            reload: cells[3],
        }
    })
    .collect()
}

fn files() -> Vec<Value> {
    FILES
        .iter()
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

fn parsed(file: &Value) -> Result<Config, String> {
    config::parse(&file.to_string(), "f").map_err(|errors| errors.to_string())
}

/// The field in one of the files, as a JSON pointer; of a list in the first item that has it.
fn place(file: &Value, field: &str) -> Option<String> {
    let Some((list, rest)) = field.split_once("[].") else {
        let pointer = format!("/{}", field.replace('.', "/"));
        return file.pointer(&pointer).map(|_| pointer);
    };
    let list = format!("/{}", list.replace('.', "/"));
    let items = file.pointer(&list)?.as_array()?;
    let found = items
        .iter()
        .enumerate()
        .find_map(|(at, item)| Some((at, place(item, rest)?)));
    found.map(|(at, rest)| format!("{list}/{at}{rest}"))
}

fn without(file: &Value, place: &str) -> Value {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let mut file = file.clone();
    file.pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(name);
    file
}

fn with(file: &Value, place: &str, value: Value) -> Value {
    let mut file = file.clone();
    *file.pointer_mut(place).unwrap() = value;
    file
}

/// A file that has the field, and where.
fn home(field: &str) -> (Value, String) {
    let found = files().into_iter().find_map(|file| {
        let place = place(&file, field)?;
        Some((file, place))
    });
    found.unwrap_or_else(|| panic!("{field} is in none of the files"))
}

/// The fields of every object of a file, as the reader itself lists them for somebody who has misspelt one.
fn fields_of(file: &Value, at: &str, path: &str, found: &mut BTreeSet<String>) {
    match file.pointer(at).unwrap() {
        Value::Object(fields) => {
            let misspelt = "zzzzzzzzzzzzzzzz";
            let mut wrong = file.clone();
            let object = wrong.pointer_mut(at).unwrap().as_object_mut().unwrap();
            object.insert(misspelt.to_owned(), Value::Bool(true));
            let said = parsed(&wrong).unwrap_err();
            let known = said.lines().find(|line| line.contains(misspelt));
            let known = known.and_then(|line| line.split_once("; known here: "));
            let (_, known) = known.unwrap_or_else(|| panic!("{at}: {said}"));
            found.extend(known.split(", ").map(|name| format!("{path}{name}")));
            for name in fields.keys() {
                fields_of(file, &format!("{at}/{name}"), &format!("{path}{name}."), found);
            }
        }
        Value::Array(items) => {
            let path = format!("{}[].", path.trim_end_matches('.'));
            for item in 0..items.len() {
                fields_of(file, &format!("{at}/{item}"), &path, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let mut fields = BTreeSet::new();
    for file in files() {
        parsed(&file).unwrap();
        fields_of(&file, "", "", &mut fields);
    }
    let is_object = |field: &String| {
        let inside = [format!("{field}."), format!("{field}[].")];
        fields
            .iter()
            .any(|other| inside.iter().any(|start| other.starts_with(start)))
    };
    let leaves: BTreeSet<&str> = fields
        .iter()
        .filter(|field| !is_object(field))
        .map(String::as_str)
        .collect();
    let documented: BTreeSet<&str> = rows().iter().map(|row| row.field).collect();
    assert_eq!(documented, leaves);
    assert_eq!(documented.len(), rows().len(), "none has two rows");
}

#[test]
fn a_field_that_is_absent_has_the_default_of_its_row() {
    for Row { field, default, .. } in rows() {
        let (file, place) = home(field);
        let absent = parsed(&without(&file, &place));
        let literal = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        match literal.filter(|literal| !literal.contains('`')) {
            Some(literal) => {
                let value = serde_saphyr::from_str(literal).unwrap();
                let explicit = parsed(&with(&file, &place, value));
                assert!(
                    explicit.is_ok() && explicit == absent,
                    "{field}: {default}: {explicit:?}\n{absent:?}"
                );
            }
            None if default == "required" || default.starts_with("required in ") => {
                let error = absent.unwrap_err();
                let (_, name) = place.rsplit_once('/').unwrap();
                assert!(error.contains(&format!("{name}: is missing")), "{field}: {error}");
            }
            None => {}
        }
    }
}

#[test]
fn what_is_in_force_without_a_restart_is_what_the_rows_say() {
    for Row { field, reload, .. } in rows() {
        let (file, place) = home(field);
        let running = parsed(&file).unwrap();
        let mut others = vec![without(&file, &place)];
        others.extend(other_values(file.pointer(&place).unwrap()).map(|value| with(&file, &place, value)));
        let changed = others
            .iter()
            .filter_map(|other| parsed(other).ok())
            .find(|other| *other != running);
        let Some(new) = changed else {
            assert_eq!(reload, "-", "{field} has but one value");
            continue;
        };
        let is_live = !changes(&running.upstream, &new.upstream).is_empty()
            || !take_over(&mut running.clone(), &new).is_empty();
        let expected = match (is_live, need_restart(&running, &new).is_empty()) {
            (true, true) => "yes",
            (false, false) => "restart",
            other => panic!("{field}: {other:?}"),
        };
        assert_eq!(reload, expected, "{field}");
    }
}

fn other_values(value: &Value) -> Box<dyn Iterator<Item = Value>> {
    match value {
        Value::Bool(value) => Box::new(std::iter::once(Value::Bool(!value))),
        Value::Number(number) => {
            let next = number
                .as_u64()
                .map_or(Value::from(1.5), |number| Value::from(number + 1));
            Box::new(std::iter::once(next))
        }
        Value::Array(items) => {
            let fewer: Vec<Value> = items.iter().skip(1).cloned().collect();
            Box::new(std::iter::once(Value::Array(fewer)))
        }
        _ => Box::new(OTHERS.iter().map(|text| Value::from(*text))),
    }
}
