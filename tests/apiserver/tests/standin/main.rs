//! The stand-in as its users see it: over TLS, from outside.

mod access;
mod faults;
mod forms;
mod lists;
mod recordings;
mod streams;
mod watches;
mod writes;

use apiserver_standin::{Client, Options, Protocol, Standin};
use serde_json::{Value, json};

/// A server and a client that may do everything.
fn start(options: Options) -> (Standin, Client) {
    let api = Standin::start(options);
    let pair = api.pki().client(Some("admin"), &["system:masters"]);
    let client = Client::new(api.addr(), api.ca_pem(), Some(&pair));
    (api, client)
}

fn http1(client: &Client) -> Client {
    client.clone().protocol(Protocol::Http1)
}

fn config_map(namespace: &str, name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}}, "data": {"k": "v"}})
}

fn names(list: &Value) -> Vec<String> {
    let full = |o: &Value| {
        format!(
            "{}/{}",
            o["metadata"]["namespace"].as_str().unwrap_or("-"),
            o["metadata"]["name"].as_str().unwrap()
        )
    };
    list["items"].as_array().unwrap().iter().map(full).collect()
}
