//! Configuration files from a user's side: what is accepted, what is said about mistakes and where, and exit codes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgehold::cli::{self, Exit};
use edgehold::config::{self, CacheStore, Config, Encryption, LogFormat, LogLevel};
use edgehold::proxy::Priority;
use edgehold::upstream::{Compression, Trust};

/// Every line a test may replace stands alone.
const BASE: &str = "\
apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: [\"127.0.0.1:51003\"]
  tls:
    certFile: /pki/server.crt
    keyFile: /pki/server.key
    clientCAFile: /pki/ca.crt
upstream:
  servers:
    - https://203.0.113.10:6443
  caFile: /pki/ca.crt
  connectTimeout: 2s
  probe: {interval: 5s, timeout: 2s}
clients:
  - commonName: system:node:edge-1
    certFile: /pki/node.pem
    keyFile: /pki/node.pem
  - commonName: system:kube-proxy
    certFile: /pki/proxy.crt
    keyFile: /pki/proxy.key
defaultClient: {}
cache: {store: file, path: /var/lib/edgehold, maxSize: 1GiB}
log: {format: text, level: info}
";

/// Section by section what the schema has, with every feature that comes later.
const EVERYTHING: &str = "\
apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: [\"127.0.0.1:51003\", \"169.254.20.11:51003\"]
  writeTimeout: 15m
  tls: {certFile: /s.crt, keyFile: /s.key, clientCAFile: /ca.crt, clientCRLFile: /clients.crl, clientCAConfigMapRef: {namespace: kube-system, name: extension-apiserver-authentication, key: client-ca-file, client: system:node:edge-1}, csr: {client: system:node:edge-1, signerName: kubernetes.io/kubelet-serving, usages: [digital signature, server auth], expirationSeconds: 2592000, clusterDomain: cluster.local, names: [edge-1.example], directory: /var/lib/edgehold/serving}}
  dummyInterface: {name: edgehold0, addresses: [\"169.254.20.11\"], removeOnExit: true}
upstream:
  servers: [\"https://203.0.113.10:6443\", \"https://203.0.113.11:6443\"]
  caFile: /ca.crt
  caConfigMapRef: {namespace: default, name: kube-root-ca.crt, key: ca.crt, client: system:node:edge-1}
  proxyURL: \"http://proxy:3128\"
  proxyCredentialsFile: /etc/edgehold/proxy
  noProxy: [\"10.0.0.0/8\", .example]
  interfaces: [eth0, wwan0]
  connectTimeout: 2s
  responseTimeout: 5s
  strategy: roundRobin
  tlsServerName: kubernetes.default.svc
  compression: off
  trustGateway: true
  probe: {interval: 5s, timeout: 2s, failureThreshold: 2, successThreshold: 3}
  keepAlive: {interval: 3s, timeout: 2s}
clients:
  - commonName: system:node:edge-1
    certFile: /n.pem
    keyFile: /n.pem
    limits: {qps: 100, burst: 200, inFlight: 40, watches: 400}
    priority: 200
  - commonName: edgehold:edge-1
    secretRef: {namespace: edge, name: edge-1, client: system:node:edge-1}
defaultClient: {limits: {qps: 0.5, burst: 100, inFlight: 10, watches: 200}}
certificates: {reloadInterval: 30m, retryInterval: 1s}
cache: {store: kv, path: /var/lib/edgehold, maxSize: 1GiB, sync: interval, encryption: {keyFile: /etc/edgehold/cache.key, credential: key}}
inCluster:
  address: 169.254.20.11:51003
  serviceFor: [\"system:node:edge-1\"]
  endpointsFor: [\"system:serviceaccount:kube-system:kube-proxy\"]
admin: {address: \"127.0.0.1:51004\", tokenFile: /etc/edgehold/admin.token}
offline: {expiry: strict, reviews: 5m, issuer: {tokenFile: /token, refreshInterval: 1h, audiences: [\"https://k\"]}}
log: {format: json, level: debug}
";

/// A piece of `BASE` (-), what is written instead (+), and the one line that is said then, less the name (=).
const MISTAKES: &str = r#"
-     clientCAFile: /pki/ca.crt\n
+     clientCAFile: /pki/ca.crt\n    clientCaFile: /x\n
= 9:5: listen.tls.clientCaFile: unknown field `clientCaFile`; did you mean `clientCAFile`?
-   connectTimeout: 2s
+   connectTimeOut: 2s
= 13:3: upstream.connectTimeOut: unknown field `connectTimeOut`; did you mean `connectTimeout`?
- defaultClient: {}
+ bananas: {}
= 22:1: bananas: unknown field `bananas`; known here: apiVersion, kind, listen, upstream, clients, defaultClient, certificates, cache, offline, inCluster, admin, log
- timeout: 2s}
+ timeuot: 2s}
= 14:25: upstream.probe.timeuot: unknown field `timeuot`; did you mean `timeout`?
- edgehold/v1alpha1
+ edgehold/v1
= 1:13: apiVersion: unknown value `edgehold/v1`; known here: edgehold/v1alpha1
- ProxyConfiguration
+ ProxyConfig
= 2:7: kind: unknown value `ProxyConfig`; known here: ProxyConfiguration
- kind: ProxyConfiguration\n
+ 
= 1:1: kind: is missing; this field is required
- kind: ProxyConfiguration
+ kind:
= 2:1: kind: is empty; this field is required
-     keyFile: /pki/server.key\n
+ 
= 6:5: listen.tls.keyFile: is missing; this field is required
-     keyFile: /pki/server.key
+     keyFile: /pki/server.key\n    keyFile: /x
= 8:5: listen.tls.keyFile: is given twice, first in line 7; keep one of them
- /pki/server.key
+ pki/server.key
= 7:14: listen.tls.keyFile: `pki/server.key` is not an absolute path; start it with /; nothing is looked up relative to the directory of the configuration file
- /pki/proxy.crt
+ ./proxy.crt
= 20:15: clients[1].certFile: `./proxy.crt` is not an absolute path; start it with /; nothing is looked up relative to the directory of the configuration file
- path: /var/lib/edgehold
+ path: ~/cache
= 23:28: cache.path: `~/cache` is not an absolute path; start it with /; nothing is looked up relative to the directory of the configuration file
- /pki/server.key
+ ""
= 7:14: listen.tls.keyFile: is empty; write an absolute path
- /pki/server.key
+ "/a\0b"
= 7:14: listen.tls.keyFile: `/a\u{0}b` has a control character; write a plain path
- /pki/server.key
+ [/a]
= 7:14: listen.tls.keyFile: has the wrong type: a list; text expected here
- /pki/server.key
+ true
= 7:14: listen.tls.keyFile: `true` is a boolean where text is expected; put it in quotes if it is meant
- ["127.0.0.1:51003"]
+ "127.0.0.1:51003"
= 4:14: listen.addresses: has the wrong type: a single value; a list expected here
- ["127.0.0.1:51003"]
+ []
= 4:14: listen.addresses: is an empty list; write at least one address, like 127.0.0.1:51003
- ["127.0.0.1:51003"]
+ [localhost:1]
= 4:15: listen.addresses[0]: `localhost:1` is not an IP address with a port; write it like 127.0.0.1:51003 or [::1]:51003
- ["127.0.0.1:51003"]
+ ["[::1]:1", "127.0.0.1:1", "[0::1]:1"]
= 4:41: listen.addresses[2]: `[::1]:1` is given twice, first in line 4; keep one of them
- - https://203.0.113.10:6443
+ - http://203.0.113.10:6443
= 11:7: upstream.servers[0]: `http://203.0.113.10:6443` does not start with https://; write it like https://203.0.113.10:6443
- - https://203.0.113.10:6443
+ - https://*.example
= 11:7: upstream.servers[0]: `https://*.example` has a wildcard for a host; write it like https://203.0.113.10:6443
- - https://203.0.113.10:6443
+ - https://me:pw@a
= 11:7: upstream.servers[0]: has a user name or password; write it like https://203.0.113.10:6443
- - https://203.0.113.10:6443
+ - https://127.0.0.1:51003
= 11:7: upstream.servers[0]: `https://127.0.0.1:51003` is one of listen.addresses; write the URL of the kube-apiserver itself
- \n    - https://203.0.113.10:6443
+  []
= 10:12: upstream.servers: is an empty list; write the URL of the kube-apiserver, like https://203.0.113.10:6443
- connectTimeout: 2s
+ connectTimeout: 0s
= 13:19: upstream.connectTimeout: `0s` is zero; write a duration above zero, like 5s
- connectTimeout: 2s
+ connectTimeout: 2
= 13:19: upstream.connectTimeout: `2` has no unit; write it with h, m, s or ms, like 5s
- connectTimeout: 2s
+ connectTimeout: [2s]
= 13:19: upstream.connectTimeout: has the wrong type: a list; a duration like 5s expected here
- probe: {interval: 5s, timeout: 2s}
+ probe: 5s
= 14:10: upstream.probe: has the wrong type: a single value; fields (interval, timeout, failureThreshold, successThreshold) expected here
- probe: {interval: 5s, timeout: 2s}
+ probe: {failureThreshold: 0}
= 14:29: upstream.probe.failureThreshold: `0` is not a whole number from 1 to 100; write a number of probes, like 2
- probe: {interval: 5s, timeout: 2s}
+ probe: {successThreshold: 1.5}
= 14:29: upstream.probe.successThreshold: `1.5` is not a whole number from 1 to 100; write a number of probes, like 3
- connectTimeout: 2s
+ strategy: roundrobin
= 13:13: upstream.strategy: unknown value `roundrobin`; did you mean `roundRobin`?
- connectTimeout: 2s
+ keepAlive: {interval: 3}
= 13:25: upstream.keepAlive.interval: `3` has no unit; write it with h, m, s or ms, like 5s
- commonName: system:kube-proxy
+ commonName: system:node:edge-1
= 19:17: clients[1].commonName: `system:node:edge-1` is given twice, first in line 16; keep one of them
- commonName: system:kube-proxy
+ commonName: " "
= 19:17: clients[1].commonName: is empty; write the common name (CN) of the client certificate
- commonName: system:kube-proxy
+ commonName: 17
= 19:17: clients[1].commonName: `17` is a number where text is expected; put it in quotes if it is meant
- commonName: system:kube-proxy
+ commonName: "a "
= 19:17: clients[1].commonName: `a ` has spaces around it or a control character; write the common name (CN) of the client certificate
- store: file
+ store: fiel
= 23:16: cache.store: unknown value `fiel`; did you mean `file`?
- maxSize: 1GiB
+ maxSize: 1 GiB
= 23:56: cache.maxSize: `1 GiB` is not a size; write a size like 1GiB, 500Mi or 2G
- maxSize: 1GiB
+ maxSize: 10
= 23:56: cache.maxSize: `10` is less than 1MiB; write a size with its unit, like 1GiB
- maxSize: 1GiB
+ sync: always
= 23:53: cache.sync: unknown value `always`; known here: interval
- format: text
+ format: yes
= 24:15: log.format: unknown value `yes`; known here: text, json
- level: info
+ level: INFO
= 24:28: log.level: unknown value `INFO`; did you mean `info`?
- defaultClient: {}
+ defaultClient: []
= 22:16: defaultClient: has the wrong type: a list; fields (limits) expected here
- clients:\n
+ clients: # an alias\n  - *a\n
= 16:5: yaml: aliases are not supported; write the value out
"#;

/// The same for `EVERYTHING`, where the line comes beside those for what is not supported; without its place.
const LATER_MISTAKES: &str = r#"
- name: edgehold0
+ name: edgehold/0
= listen.dummyInterface.name: `edgehold/0` cannot name an interface
- name: edgehold0
+ name: sixteen-letters-
= listen.dummyInterface.name: `sixteen-letters-` cannot name an interface
- addresses: ["169.254.20.11"]
+ addresses: ["169.254.20.11/32"]
= listen.dummyInterface.addresses[0]: `169.254.20.11/32` is not the IP address of a host
- addresses: ["169.254.20.11"]
+ addresses: ["fd00::1", "fd00::1"]
= listen.dummyInterface.addresses[1]: `fd00::1` is given twice
- addresses: ["169.254.20.11"]
+ addresses: []
= listen.dummyInterface.addresses: is an empty list
- csr: {client: system:node:edge-1
+ csr: {client: system:node:edge-2
= listen.tls.csr.client: `system:node:edge-2` is not a client of this configuration; write the commonName of one of `clients`
- kubernetes.io/kubelet-serving
+ kubelet-serving
= listen.tls.csr.signerName: `kubelet-serving` is not the name of a signer
- digital signature, server auth
+ digital signature
= listen.tls.csr.usages: lacks `server auth`
- digital signature, server auth
+ server auth, server-auth
= listen.tls.csr.usages[1]: unknown value `server-auth`; did you mean `server auth`?
- expirationSeconds: 2592000
+ expirationSeconds: 599
= listen.tls.csr.expirationSeconds: `599` is not a whole number of at least 600
- clusterDomain: cluster.local
+ clusterDomain: cluster..local
= listen.tls.csr.clusterDomain: `cluster..local` is neither an IP address nor a DNS name
- names: [edge-1.example]
+ names: ["*.example"]
= listen.tls.csr.names[0]: `*.example` is neither an IP address nor a DNS name
- {namespace: edge, name: edge-1, client: system:node:edge-1}
+ {namespace: edge, name: edge-1, client: edgehold:edge-1}
= clients[1].secretRef.client: the certificate of `edgehold:edge-1` comes from a Secret itself; name a client with certFile and keyFile
- {namespace: edge, name: edge-1, client: system:node:edge-1}
+ {namespace: edge, name: ../nodes, client: system:node:edge-1}
= clients[1].secretRef.name: `../nodes` is not the name of an object
- {namespace: edge, name: edge-1, client: system:node:edge-1}
+ {name: edge-1, client: system:node:edge-1}
= clients[1].secretRef.namespace: is missing
- - commonName: edgehold:edge-1
+ - certFile: /n.pem\n    commonName: edgehold:edge-1
= clients[1].secretRef: is given beside certFile or keyFile
- key: ca.crt
+ key: a/b
= upstream.caConfigMapRef.key: `a/b` is not a key of a ConfigMap
- key: client-ca-file, client: system:node:edge-1
+ key: client-ca-file, client: nobody
= listen.tls.clientCAConfigMapRef.client: `nobody` is not a client of this configuration
- csr: {client:
+ secretRef: {namespace: a, name: b, client: system:node:edge-1}, csr: {client:
= listen.tls.csr: is given beside `secretRef`
- directory: /var/lib/edgehold/serving
+ directory: serving
= listen.tls.csr.directory: `serving` is not an absolute path
- removeOnExit: true
+ removeOnExit: yes
= listen.dummyInterface.removeOnExit: unknown value `yes`
- https://203.0.113.11:6443
+ https://203.0.113.10:6443
= upstream.servers[1]: `203.0.113.10:6443` is given twice
- http://proxy:3128
+ socks4://proxy:3128
= upstream.proxyURL: `socks4://proxy:3128` does not start with http://
- http://proxy:3128
+ https://me:hunter2@proxy:3128
= upstream.proxyURL: is a proxy that is spoken to over TLS, which is not supported
- http://proxy:3128
+ http://me:hunter2@proxy:3128
= upstream.proxyCredentialsFile: stands beside a user name in `proxyURL`
- proxyURL: "http://proxy:3128"\n  proxyCredentialsFile: /etc/edgehold/proxy\n  noProxy: ["10.0.0.0/8", .example]
+ proxyCredentialsFile: /etc/edgehold/proxy
= upstream.proxyCredentialsFile: is for a proxy, and there is no `proxyURL`
- proxyURL: "http://proxy:3128"\n  proxyCredentialsFile: /etc/edgehold/proxy\n  noProxy
+ noProxy
= upstream.noProxy: is for a proxy, and there is no `proxyURL`
- /etc/edgehold/proxy
+ proxy
= upstream.proxyCredentialsFile: `proxy` is not an absolute path
- eth0, wwan0
+ eth0, eth0
= upstream.interfaces[1]: `eth0` is given twice
- eth0, wwan0
+ eth0, "a/b"
= upstream.interfaces[1]: `a/b`
- 10.0.0.0/8
+ 10.0.0.0/80
= upstream.noProxy[0]: `10.0.0.0/80` is neither a host, a domain, an IP address, a CIDR nor `*`
- qps: 100
+ qps: many
= clients[0].limits.qps: `many` is not a number
- qps: 100
+ qps: 0
= clients[0].limits.qps: `0` is not a number above zero
- burst: 200
+ burst: 1.5
= clients[0].limits.burst: `1.5` is not a whole number above zero
- qps: 0.5, burst: 100,
+ qps: 0.5,
= defaultClient.limits.burst: is missing
- inFlight: 40
+ inFlight: 0
= clients[0].limits.inFlight: `0` is not a whole number above zero
- watches: 400
+ watches: many
= clients[0].limits.watches: `many` is not a number
- priority: 200
+ priority: 1.5
= clients[0].priority: `1.5` is not a whole number from -1000 to 1000
- priority: 200
+ priority: high
= clients[0].priority: `high` is not a number
- address: 169.254.20.11:51003
+ address: 169.254.20.11
= inCluster.address: `169.254.20.11` is not an IP address with a port
- ["system:serviceaccount:kube-system:kube-proxy"]
+ [""]
= inCluster.endpointsFor[0]: is empty
- 127.0.0.1:51004
+ 0.0.0.0:51004
= admin.address: `0.0.0.0:51004` is not on the loopback
- 127.0.0.1:51004
+ unix:admin.sock
= admin.address: `admin.sock` is not an absolute path
- 127.0.0.1:51004
+ 127.0.0.1:51003
= admin.address: is one of listen.addresses
- /etc/edgehold/admin.token
+ admin.token
= admin.tokenFile: `admin.token` is not an absolute path
"#;

struct Mistake {
    old: String,
    new: String,
    expected: &'static str,
}

fn mistakes(table: &'static str) -> Vec<Mistake> {
    let lines: Vec<&str> = table.trim().lines().collect();
    assert!(lines.len() > 30 && lines.len().is_multiple_of(3), "not a table");
    let cell =
        |line: &'static str, mark: &str| line.strip_prefix(mark).unwrap_or_else(|| panic!("{mark}{line}"));
    let row = |row: &[&'static str]| Mistake {
        old: cell(row[0], "- ").replace("\\n", "\n"),
        new: cell(row[1], "+ ").replace("\\n", "\n"),
        expected: cell(row[2], "= "),
    };
    lines.chunks(3).map(row).collect()
}

fn problems(text: &str) -> Vec<String> {
    match config::parse(text, "c.yaml") {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

/// `BASE` with one piece replaced, which must be there once.
fn with(old: &str, new: &str) -> String {
    assert_eq!(BASE.matches(old).count(), 1, "{old:?} is not there once");
    BASE.replace(old, new)
}

fn good(text: &str) -> Config {
    config::parse(text, "c.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn one_mistake_gives_one_line_with_its_place_and_a_way_out() {
    for Mistake { old, new, expected } in mistakes(MISTAKES) {
        let text = with(&old, &new);
        assert_eq!(
            problems(&text),
            [format!("c.yaml:{expected}")],
            "after {old:?} -> {new:?}"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = BASE
        .replace("/pki/server.crt", "server.crt")
        .replace("2s", "zero")
        .replace("https://", "http://")
        .replace("system:kube-proxy", "system:node:edge-1")
        .replace("level: info", "level: loud, colour: red");
    let places: Vec<String> = problems(&text)
        .iter()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        places,
        [
            "c.yaml:6:15 listen.tls.certFile",
            "c.yaml:11:7 upstream.servers[0]",
            "c.yaml:13:19 upstream.connectTimeout",
            "c.yaml:14:34 upstream.probe.timeout",
            "c.yaml:19:17 clients[1].commonName",
            "c.yaml:24:28 log.level",
            "c.yaml:24:34 log.colour",
        ]
    );
}

#[test]
fn limits_are_read() {
    let config = good(
        &with(
            "defaultClient: {}",
            "defaultClient: {limits: {qps: 50, burst: 100}}",
        )
        .replace(
            "    keyFile: /pki/proxy.key",
            "    keyFile: /pki/proxy.key\n    limits: {qps: 0.5, burst: 7, inFlight: 3, watches: 9}\n    priority: -5",
        ),
    );
    assert_eq!(config.clients[0].limits, None);
    let limits = config.clients[1].limits.unwrap();
    assert_eq!(
        (limits.qps, limits.burst, limits.in_flight, limits.watches),
        (0.5, 7, Some(3), Some(9))
    );
    assert_eq!(
        (config.clients[0].priority, config.clients[1].priority),
        (None, Some(Priority(-5)))
    );
    let default = config.default_limits.unwrap();
    assert_eq!(
        (default.burst, default.in_flight, default.watches),
        (100, None, None)
    );
}

#[test]
fn what_comes_later_is_checked_and_refused_by_name() {
    assert_eq!(
        problems(EVERYTHING),
        [
            "c.yaml:34:16: cache.store: `kv` is not supported yet; use `file`",
            "c.yaml:34:88: cache.encryption: has both keyFile and credential; write {keyFile: /etc/edgehold/cache.key} or \
             {credential: edgehold-cache-key}",
        ]
    );
    let later = problems(EVERYTHING).len();
    for Mistake { old, new, expected } in mistakes(LATER_MISTAKES) {
        let text = EVERYTHING.replace(&old, &new);
        let lines = problems(&text);
        assert!(
            lines.iter().any(|line| line.contains(expected)),
            "{expected}\nnot in {lines:#?}"
        );
        assert_eq!(lines.len(), later + 1, "{lines:#?}");
    }
}

#[test]
fn good_values_arrive_typed() {
    let config = good(BASE);
    let way = &config.upstream.settings;
    assert_eq!(way.servers.len(), 1);
    assert_eq!(way.servers[0].to_string(), "203.0.113.10:6443");
    assert_eq!(way.compression, Compression::Auto);
    let names: Vec<&str> = config.clients.iter().map(|client| &*client.common_name).collect();
    assert_eq!(names, ["system:node:edge-1", "system:kube-proxy"]);
    assert_eq!(config.clients[1].key_file, Path::new("/pki/proxy.key"));

    let text = with("maxSize: 1GiB", "maxSize: 500Mi, sync: interval")
        .replace("store: file", "store: memory")
        .replace("format: text, level: info", "format: json, level: trace")
        .replace(
            "[\"127.0.0.1:51003\"]",
            "[\"127.0.0.1:0\", \"[::1]:0\", \"127.0.0.1:0\"]",
        )
        .replace(
            "connectTimeout: 2s",
            "connectTimeout: 1m30s\n  responseTimeout: \"500ms\"\n  compression: off\n  trustGateway: true\n  tlsServerName: kubernetes.default.svc",
        )
        .replace(
            "defaultClient: {}",
            "defaultClient:\ncertificates: {retryInterval: 10ms}",
        );
    let config = good(&text);
    assert_eq!(
        (config.cache.store, config.cache.max_size),
        (CacheStore::Memory, 500 << 20)
    );
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Trace)
    );
    assert_eq!(config.listen.addresses.len(), 3);
    let way = &config.upstream.settings;
    assert_eq!(way.dial.connect_timeout, Duration::from_secs(90));
    assert_eq!(way.response_timeout, Duration::from_millis(500));
    assert_eq!(way.compression, Compression::Off);
    assert_eq!(way.trust, Trust::Gateway);
    assert_eq!(
        way.servers[0].server_name,
        "kubernetes.default.svc".parse().unwrap()
    );
    assert_eq!(config.certificates.reload_interval, Duration::from_secs(1800));
    assert_eq!(config.certificates.retry_interval, Duration::from_millis(10));
}

#[test]
fn json_is_a_configuration_too() {
    let text = r#"{"apiVersion": "edgehold/v1alpha1", "kind": "ProxyConfiguration",
        "listen": {"tls": {"certFile": "/c", "keyFile": "/k", "clientCAFile": "/ca"}},
        "upstream": {"servers": ["https://a"], "caFile": "/ca"}, "clients": null}"#;
    assert_eq!(good(text).upstream.settings.servers[0].port, 443);
}

fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files
}

#[test]
fn every_example_is_a_good_configuration() {
    let files = examples();
    assert!(files.len() >= 2, "{files:?}");
    for path in files {
        if let Err(errors) = config::load(&path) {
            panic!("{errors}");
        }
    }
}

#[test]
fn the_keys_of_the_cache_come_from_a_file_or_a_credential() {
    let with = |encryption: &str| {
        let cache = format!("maxSize: 1GiB, encryption: {encryption}}}");
        config::parse(&BASE.replace("maxSize: 1GiB}", &cache), "c")
    };
    assert_eq!(config::parse(BASE, "c").unwrap().cache.encryption, None);
    let file = Encryption::KeyFile("/etc/edgehold/cache.key".into());
    assert_eq!(
        with("{keyFile: /etc/edgehold/cache.key}")
            .unwrap()
            .cache
            .encryption,
        Some(file)
    );
    let credential = Encryption::Credential("edgehold-cache-key".into());
    assert_eq!(
        with("{credential: edgehold-cache-key}").unwrap().cache.encryption,
        Some(credential)
    );
    for (wrong, said) in [
        ("{}", "has neither keyFile nor credential"),
        ("{keyFile: cache.key}", "is not an absolute path"),
        ("{credential: ../key}", "is not the name of a credential"),
        ("{credential: \"\"}", "is not the name of a credential"),
        ("{key: abc}", "unknown field `key`"),
    ] {
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn reviews_are_given_again_only_if_a_time_is_configured() {
    let with = |text: &str| {
        config::parse(&format!("{BASE}offline: {{reviews: {text}}}\n"), "c").map(|c| c.offline.reviews)
    };
    assert_eq!(config::parse(BASE, "c").unwrap().offline.reviews, Duration::ZERO);
    assert_eq!(with("0s").unwrap(), Duration::ZERO);
    assert_eq!(with("5m").unwrap(), Duration::from_secs(300));
    assert!(with("-5m").is_err());
}

#[test]
fn check_names_the_proxy_and_not_its_password() {
    let password = written("me:hunter2");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    password.as_file().set_permissions(open).unwrap();
    let path = password.path().display();
    let with_file = format!("  proxyCredentialsFile: {path}\n  noProxy: [203.0.113.0/24]\n");
    for (url, more, expected) in [
        (
            "http://me:hunter2@proxy:3128",
            String::new(),
            vec!["  with the user name and password of its URL".to_owned()],
        ),
        (
            "http://proxy:3128",
            with_file,
            vec![
                "  but https://203.0.113.10:6443 without it".to_owned(),
                format!("warning: upstream.proxyCredentialsFile: {path} is open to everybody; chmod 600"),
            ],
        ),
    ] {
        let text = BASE.replace(
            "upstream:\n",
            &format!("upstream:\n  proxyURL: \"{url}\"\n{more}"),
        );
        let file = written(&text);
        let (_, out, err) = edgehold(&["check", "--offline", "--config", file.path().to_str().unwrap()]);
        assert_eq!(err, "");
        for line in expected
            .iter()
            .map(String::as_str)
            .chain(["  through the proxy http://proxy:3128"])
        {
            assert!(out.contains(line), "{line}\nnot in\n{out}");
        }
        assert!(!out.contains("hunter2"), "{out}");
        let config = config::parse(&text, "c.yaml").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

/// Runs the command line; `run` answers with an error that shows it was reached.
fn edgehold(args: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("edgehold")
        .chain(args.iter().copied())
        .map(OsString::from);
    let run = |config: Config| -> anyhow::Result<()> {
        let server = &config.upstream.settings.servers[0];
        Err(anyhow::anyhow!("no route").context(format!("connecting to {server}")))
    };
    let exit = cli::execute(args, run, &mut out, &mut err);
    (
        exit,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn written(text: &str) -> tempfile::NamedTempFile {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn check_says_what_a_good_file_means_and_which_files_are_missing() {
    let present = written("not read");
    let cache = tempfile::tempdir().unwrap();
    let text = with(
        "/pki/node.pem\n    keyFile: /pki/node.pem",
        &format!("{}\n    keyFile: /", present.path().display()),
    );
    let at = cache.path().display().to_string();
    let text = format!("{text}admin: {{address: \"unix:{at}/admin.sock\"}}\n");
    let text = text.replace("/var/lib/edgehold", &at);
    let file = written(&text.replace("127.0.0.1:51003", "127.0.0.1:0"));
    let path = file.path().to_str().unwrap();
    let (exit, out, err) = edgehold(&["check", "--offline", "--config", path]);
    assert_eq!((exit, exit.code(), &*err), (Exit::Certificate, 65, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], format!("{path}: 5 problems"), "{out}");
    let found = format!("    certFile     {} (found)", present.path().display());
    for line in [
        "  listen on 127.0.0.1:0",
        "  forward to https://203.0.113.10:6443",
        "    caFile       /pki/ca.crt (missing)",
        "  client system:node:edge-1",
        &found,
        "    keyFile      / (not a file)",
        "  client system:kube-proxy",
        &format!("  cache in {}, at most 1 GiB", cache.path().display()),
        "problem: listen.tls.keyFile: /pki/server.key: missing: no client gets a connection until it is there; is it spelt right?",
        "problem: clients[0].keyFile: /: not a file; name a PEM file",
        "warning: clients[1].certFile: /pki/proxy.crt: missing; normal on a new node, it is picked up when it appears",
    ] {
        assert!(lines.contains(&line), "{line:?} is not in\n{out}");
    }
    assert!(!out.contains("warning: clients[0].certFile"), "{out}");
}

#[test]
fn check_and_run_exit_64_with_the_problems_on_stderr() {
    let file = written(&with("level: info", "level: loud").replace("2s", "0s"));
    let path = file.path().to_str().unwrap();
    for command in ["check", "run"] {
        let (exit, out, err) = edgehold(&[command, "--config", path]);
        assert_eq!((exit, exit.code(), &*out), (Exit::Usage, 64, ""));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(lines.len(), 3, "{err}");
        assert!(
            lines.iter().all(|line| line.starts_with(&format!("{path}:"))),
            "{err}"
        );
    }
    let (exit, _, err) = edgehold(&["check", "--config", "/nonexistent/c.yaml"]);
    assert_eq!(exit, Exit::Usage);
    assert!(
        err.starts_with("/nonexistent/c.yaml: file: cannot be read: No such file"),
        "{err}"
    );
    assert_eq!(edgehold(&["check", "--config", "/dev/zero"]).2.lines().count(), 1);
    assert_eq!(edgehold(&["check", "--config", "/"]).0, Exit::Usage);
}

#[test]
fn run_hands_the_configuration_over_and_exits_1_when_it_fails() {
    let file = written(BASE);
    let (exit, out, err) = edgehold(&["run", "--config", file.path().to_str().unwrap()]);
    assert_eq!((exit, exit.code(), &*out), (Exit::Failed, 1, ""));
    assert_eq!(err, "edgehold: connecting to 203.0.113.10:6443: no route\n");
}

#[test]
fn a_wrong_command_line_exits_64_and_help_and_version_0() {
    for args in [
        &["fly"][..],
        &[],
        &["check", "--confg", "x"],
        &["run", "extra"],
        &["check", "--config"],
    ] {
        let (exit, out, err) = edgehold(args);
        assert_eq!((exit, &*out), (Exit::Usage, ""), "{args:?}");
        assert!(err.contains("--help"), "{err}");
    }
    let version = format!("edgehold {} (", env!("CARGO_PKG_VERSION"));
    for args in [["version"], ["--version"], ["-V"]] {
        let (exit, out, err) = edgehold(&args);
        assert_eq!((exit, &*err), (Exit::Ok, ""));
        assert!(out.starts_with(&version) && out.ends_with(")\n"), "{out:?}");
    }
    let (exit, out, _) = edgehold(&["--help"]);
    assert_eq!(exit, Exit::Ok);
    assert!(
        out.contains("64  the configuration or the command line is wrong"),
        "{out}"
    );
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_unless_its_reader_has_had_enough() {
    struct Closed(std::io::ErrorKind);
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    use std::io::ErrorKind::{BrokenPipe, StorageFull};
    for args in [&["version"][..], &["--help"], &["help"], &["help", "check"]] {
        for (kind, expected) in [(BrokenPipe, Exit::Ok), (StorageFull, Exit::Failed)] {
            let args = std::iter::once("edgehold")
                .chain(args.iter().copied())
                .map(OsString::from);
            let exit = cli::execute(args, |_| Ok(()), &mut Closed(kind), &mut Vec::new());
            assert_eq!(exit, expected, "{kind}");
        }
    }
}
