//! The fields of Services, Endpoints and EndpointSlices by which clients find an address, with their real numbers.
//!
//! They are written beside field 100, which keeps the whole object for [`crate::proto::decode`].

use serde_json::Value;

use crate::proto::{field, number};

/// What follows the metadata of an object of these kinds; nothing for any other.
pub(crate) fn fields(object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match object["kind"].as_str() {
        Some("Service") => field(&mut out, 2, &service_spec(&object["spec"])),
        Some("Endpoints") => each(&mut out, 2, &object["subsets"], |subset| {
            let mut out = Vec::new();
            let address = |address: &Value| text(1, &address["ip"]);
            each(&mut out, 1, &subset["addresses"], address);
            each(&mut out, 2, &subset["notReadyAddresses"], address);
            each(&mut out, 3, &subset["ports"], |port| port_fields(port, 2, 3));
            out
        }),
        Some("EndpointSlice") => {
            each(&mut out, 2, &object["endpoints"], |endpoint| {
                let mut out = Vec::new();
                texts(&mut out, 1, &endpoint["addresses"]);
                let mut conditions = Vec::new();
                let ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
                number(&mut conditions, 1, u64::from(ready));
                field(&mut out, 2, &conditions);
                out
            });
            each(&mut out, 3, &object["ports"], |port| port_fields(port, 3, 2));
            out.extend(text(4, &object["addressType"]));
        }
        _ => {}
    }
    out
}

fn service_spec(spec: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    each(&mut out, 1, &spec["ports"], |port| port_fields(port, 3, 2));
    out.extend(text(3, &spec["clusterIP"]));
    texts(&mut out, 18, &spec["clusterIPs"]);
    texts(&mut out, 19, &spec["ipFamilies"]);
    out
}

/// Name, and port and protocol in the order of their numbers.
fn port_fields(port: &Value, port_number: u32, protocol: u32) -> Vec<u8> {
    let mut out = text(1, &port["name"]);
    for n in [2, 3] {
        if n == port_number {
            number(&mut out, n, port["port"].as_u64().unwrap_or(0));
        } else if n == protocol {
            out.extend(text(n, &port["protocol"]));
        }
    }
    out
}

fn each(out: &mut Vec<u8>, n: u32, values: &Value, encode: impl Fn(&Value) -> Vec<u8>) {
    for value in values.as_array().into_iter().flatten() {
        field(out, n, &encode(value));
    }
}

fn texts(out: &mut Vec<u8>, n: u32, values: &Value) {
    for value in values.as_array().into_iter().flatten() {
        out.extend(text(n, value));
    }
}

fn text(n: u32, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, n, value.as_str().unwrap_or_default().as_bytes());
    out
}
