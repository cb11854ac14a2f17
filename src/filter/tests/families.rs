//! IPv4, IPv6, both; several apiservers, none; other ports and slices. In JSON, and in CBOR against JSON.

use serde_json::json;

use super::*;

const BOTH: Local = Local {
    v4: LOCAL.v4,
    v6: Some(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xb)),
    port: 51003,
};
const ONLY_V6: Local = Local { v4: None, ..BOTH };

/// One object as the answer to a GET, rewritten; CBOR must say the same.
fn seen(local: Local, object: &Value) -> Value {
    let target = match object["kind"].as_str().unwrap() {
        "Service" => "/api/v1/namespaces/default/services/kubernetes",
        "Endpoints" => "/api/v1/namespaces/default/endpoints/kubernetes",
        _ => "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes-x",
    };
    let json = object.to_string();
    let found = rewritten(local, target, Encoding::Json, json.as_bytes());
    let found: Value = serde_json::from_slice(&found).unwrap();
    let in_cbor = rewritten(local, target, Encoding::Cbor, &cbor(json.as_bytes()));
    assert_eq!(json_of(&in_cbor), found);
    found
}

fn service(spec: Value) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "kubernetes", "namespace": "default"}, "spec": spec})
}

fn endpoints(subsets: Value) -> Value {
    json!({"kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default"}, "subsets": subsets})
}

fn slice(family: &str, endpoints: Value, ports: Value) -> Value {
    json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": endpoints, "ports": ports})
}

fn https() -> Value {
    json!([{"name": "https", "protocol": "TCP", "port": 51003}])
}

#[test]
fn a_dual_stack_service_keeps_the_families_that_we_have() {
    let dual = service(json!({
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:1::1"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"name": "https", "port": 443}],
    }));
    let spec = seen(BOTH, &dual)["spec"].clone();
    assert_eq!(spec["clusterIPs"], json!(["169.254.20.11", "fd00::b"]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");
    let spec = seen(LOCAL, &dual)["spec"].clone();
    assert_eq!(
        (&spec["clusterIP"], &spec["clusterIPs"]),
        (&json!("169.254.20.11"), &json!(["169.254.20.11"]))
    );
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
    assert_eq!(
        seen(ONLY_V6, &dual),
        dual,
        "kubelet takes the first address, and we have none like it"
    );
}

#[test]
fn a_service_without_an_address_stays() {
    for spec in [
        json!({"clusterIP": "None"}),
        json!({}),
        json!({"clusterIP": ""}),
        Value::Null,
    ] {
        let object = service(spec);
        assert_eq!(seen(BOTH, &object), object);
    }
}

#[test]
fn only_the_https_port_is_ours() {
    let ports = |ports: Value| {
        let object = service(json!({"clusterIP": "10.96.0.1", "ports": ports}));
        seen(LOCAL, &object)["spec"]["ports"].clone()
    };
    assert_eq!(
        ports(json!([{"name": "other", "port": 1}, {"name": "https", "port": 443, "nodePort": 7}])),
        json!([{"name": "other", "port": 1}, {"name": "https", "port": 51003, "nodePort": 7}])
    );
    assert_eq!(
        ports(json!([{"port": 443}])),
        json!([{"port": 51003}]),
        "a single port needs no name"
    );
}

#[test]
fn several_apiservers_become_one_endpoint() {
    let object = endpoints(json!([
        {"addresses": [{"ip": "10.0.0.1", "nodeName": "a"}, {"ip": "10.0.0.2"}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]},
        {"notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "https", "port": 7443, "protocol": "TCP"}]},
    ]));
    assert_eq!(
        seen(BOTH, &object)["subsets"],
        json!([{"addresses": [{"ip": "169.254.20.11"}], "ports": [{"name": "https", "port": 51003, "protocol": "TCP"}]}])
    );
    let object = slice(
        "IPv4",
        json!([{"addresses": ["10.0.0.1"], "zone": "far", "hints": {"forZones": [{"name": "far"}]}, "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "nodeName": "a"}]),
        json!([{"name": "https", "protocol": "TCP", "port": 6443, "appProtocol": "https"}]),
    );
    let found = seen(BOTH, &object);
    assert_eq!(
        found["endpoints"],
        json!([{"addresses": ["169.254.20.11"], "conditions": {"ready": true}}])
    );
    assert_eq!(
        found["ports"],
        json!([{"name": "https", "protocol": "TCP", "port": 51003, "appProtocol": "https"}])
    );
}

#[test]
fn edgehold_is_an_endpoint_when_no_apiserver_is() {
    let wanted = json!([{"addresses": [{"ip": "169.254.20.11"}], "ports": [{"name": "https", "port": 51003, "protocol": "TCP"}]}]);
    assert_eq!(seen(BOTH, &endpoints(Value::Null))["subsets"], wanted);
    let mut bare = endpoints(Value::Null);
    bare.as_object_mut().unwrap().remove("subsets");
    assert_eq!(seen(BOTH, &bare)["subsets"], wanted, "omitted when empty");
    let found = seen(BOTH, &slice("IPv6", Value::Null, Value::Null));
    assert_eq!(
        found["endpoints"],
        json!([{"addresses": ["fd00::b"], "conditions": {"ready": true}}])
    );
    assert_eq!(found["ports"], https());
}

#[test]
fn each_family_gets_its_own_address_or_stays() {
    let of = |family: &str, ip: &str| slice(family, json!([{"addresses": [ip]}]), https());
    let (four, six) = (of("IPv4", "10.0.0.1"), of("IPv6", "fd00:1::1"));
    let address = |local, object| seen(local, object)["endpoints"][0]["addresses"][0].clone();
    assert_eq!(
        (address(BOTH, &four), address(BOTH, &six)),
        (json!("169.254.20.11"), json!("fd00::b"))
    );
    assert_eq!(
        seen(LOCAL, &six),
        six,
        "reachable as without edgehold, instead of not at all"
    );
    assert_eq!(seen(ONLY_V6, &four), four);
    let names = of("FQDN", "api.example");
    assert_eq!(seen(BOTH, &names), names);

    let mixed = endpoints(
        json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00:1::1"}], "ports": [{"port": 6443}]}]),
    );
    let addresses = |local| seen(local, &mixed)["subsets"][0]["addresses"].clone();
    assert_eq!(
        addresses(BOTH),
        json!([{"ip": "169.254.20.11"}, {"ip": "fd00::b"}])
    );
    assert_eq!(addresses(ONLY_V6), json!([{"ip": "fd00::b"}]));
    let four = endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}]}]));
    assert_eq!(seen(ONLY_V6, &four), four);
}

#[test]
fn no_other_object_is_touched() {
    let mut objects = Vec::new();
    for (field, value) in [("name", "kubernetes2"), ("namespace", "kube-system")] {
        for mut object in [service(json!({"clusterIP": "10.96.0.1"})), endpoints(json!([]))] {
            object["metadata"][field] = value.into();
            objects.push(object);
        }
    }
    let mut other = slice("IPv4", json!([{"addresses": ["10.0.0.1"]}]), https());
    other["metadata"]["labels"]["kubernetes.io/service-name"] = "web".into();
    objects.push(other.clone());
    other["metadata"]["labels"] = json!({});
    other["metadata"]["name"] = "kubernetes".into();
    objects.push(other);
    let mut elsewhere = slice("IPv4", json!([{"addresses": ["10.0.0.1"]}]), https());
    elsewhere["metadata"]["namespace"] = "shop".into();
    objects.push(elsewhere);
    for object in objects {
        assert_eq!(seen(BOTH, &object), object);
    }
}
