//! `POST serviceaccounts/{name}/token`, in JSON and in real protobuf, as kubelet sends it.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::jwt::{ISSUER, ServiceAccountToken};
use crate::kinds::{Kind, Origin};
use crate::negotiate::{self, Format, Offer};
use crate::proto::{self, Field, bytes_of, fields, text};
use crate::serve::{Answer, Call, first};
use crate::status::Status;
use crate::{clock, json};

const API_VERSION: &str = "authentication.k8s.io/v1";

pub(crate) async fn request(mut call: Call, kind: &'static Kind) -> Answer {
    if call.method != http::Method::POST {
        return Err(Status::method_not_allowed());
    }
    let offer = Offer {
        protobuf: true,
        single: true,
    };
    let form = negotiate::negotiate(call.accept(), offer).ok_or_else(Status::not_acceptable)?;
    let protobuf = first(&call.headers, &CONTENT_TYPE).starts_with("application/vnd.kubernetes.protobuf");
    let body = call.read_body().await?;
    let sent = if protobuf {
        decode_spec(&body)
    } else {
        json_spec(&body)
    };
    let spec = sent.ok_or_else(|| Status::bad_request("the object provided is unrecognized"))?;
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    let cluster = &call.shared.cluster;
    let account = cluster.store.get(kind, &kind.key(&namespace, &name));
    let account = account.ok_or_else(|| Status::not_found(kind, &name))?;
    let answer = issue(&call, &account, spec);
    let bytes = match form.format {
        Format::Json => json::bytes(&answer, Origin::BuiltIn, false),
        Format::Protobuf => encode(&answer),
    };
    Ok(call.respond(StatusCode::CREATED, &form, bytes))
}

fn issue(call: &Call, account: &Value, mut spec: Value) -> Value {
    let mut token = ServiceAccountToken::new(&call.info.namespace, &call.info.name);
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if let Some(audiences) = spec["audiences"].as_array().filter(|a| !a.is_empty()) {
        token.audiences = audiences
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
    } else {
        spec["audiences"] = json!([ISSUER]);
    }
    let bound = &spec["boundObjectRef"];
    if bound["kind"] == "Pod" {
        let part = |key: &str| bound[key].as_str().unwrap_or_default().to_owned();
        token.pod = Some((part("name"), part("uid")));
    }
    // The real server signs exactly 3607 s for a year, and says an hour.
    let for_api = token.audiences.is_empty() || token.audiences == [ISSUER];
    if !(seconds == 3607 && for_api && token.pod.is_some()) {
        token.expires_in = seconds;
    }
    let signed = call.shared.cluster.issue(&token);
    json!({"kind": "TokenRequest", "apiVersion": API_VERSION,
        "metadata": {"name": call.info.name, "namespace": call.info.namespace, "uid": account["metadata"]["uid"],
            "creationTimestamp": clock::rfc3339(clock::unix())},
        "spec": spec,
        "status": {"token": signed, "expirationTimestamp": clock::rfc3339(clock::unix() + seconds)}})
}

fn json_spec(body: &[u8]) -> Option<Value> {
    let request: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(body).ok()?
    };
    let spec = &request["spec"];
    Some(
        json!({"audiences": spec["audiences"], "boundObjectRef": spec["boundObjectRef"],
        "expirationSeconds": spec["expirationSeconds"].as_i64().unwrap_or(3600)}),
    )
}

fn decode_spec(body: &[u8]) -> Option<Value> {
    let (_, _, raw) = proto::open(body)?;
    let message = fields(raw)?;
    let mut spec = json!({"audiences": [], "boundObjectRef": null, "expirationSeconds": 3600});
    for (number, field) in fields(bytes_of(&message, 2).unwrap_or_default())? {
        match (number, field) {
            (1, Field::Bytes(audience)) => {
                spec["audiences"]
                    .as_array_mut()?
                    .push(json!(String::from_utf8_lossy(audience)));
            }
            (3, Field::Bytes(reference)) => {
                let f = fields(reference)?;
                spec["boundObjectRef"] = json!({"kind": text(&f, 1), "apiVersion": text(&f, 2), "name": text(&f, 3),
                    "uid": text(&f, 4)});
            }
            (4, Field::Number(seconds)) => spec["expirationSeconds"] = json!(seconds),
            _ => {}
        }
    }
    Some(spec)
}

fn encode(answer: &Value) -> Vec<u8> {
    let text = |v: &Value| v.as_str().unwrap_or_default().as_bytes().to_vec();
    let spec = &answer["spec"];
    let mut message = proto::partial(answer);
    let mut inner = Vec::new();
    for audience in spec["audiences"].as_array().into_iter().flatten() {
        proto::field(&mut inner, 1, &text(audience));
    }
    if spec["boundObjectRef"].is_object() {
        let mut reference = Vec::new();
        for (number, key) in [(1, "kind"), (2, "apiVersion"), (3, "name"), (4, "uid")] {
            proto::field(&mut reference, number, &text(&spec["boundObjectRef"][key]));
        }
        proto::field(&mut inner, 3, &reference);
    }
    proto::number(&mut inner, 4, spec["expirationSeconds"].as_u64().unwrap_or(0));
    proto::field(&mut message, 2, &inner);
    let mut status = Vec::new();
    proto::field(&mut status, 1, &text(&answer["status"]["token"]));
    proto::field(
        &mut status,
        2,
        &proto::time(&answer["status"]["expirationTimestamp"]).unwrap_or_default(),
    );
    proto::field(&mut message, 3, &status);
    proto::envelope(API_VERSION, "TokenRequest", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &str = "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e526571756573\
        74122f0a100a0012001a0022002a0032003800420012151a100a03506f64120276311a01702202707520971c1a040a0012001a002200";

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn kubelets_protobuf_request_is_understood() {
        let spec = decode_spec(&hex(KUBELET)).unwrap();
        assert_eq!(spec["expirationSeconds"], 3607);
        assert_eq!(
            spec["boundObjectRef"],
            json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pu"})
        );
    }

    #[test]
    fn the_protobuf_answer_is_the_real_serializers_bytes() {
        let answer = json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "su",
                "creationTimestamp": "2023-11-14T22:13:20Z"},
            "spec": {"audiences": ["https://k"], "expirationSeconds": 3607,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pu"}},
            "status": {"token": "h.p.s", "expirationTimestamp": "2023-11-14T23:13:27Z"}});
        assert_eq!(
            encode(&answer),
            hex(
                "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e526571756573741255\
                 0a1e0a02736112001a026e7322002a0273753200380042080880e2cfaa06100012200a0968747470733a2f2f6b1a100a\
                 03506f64120276311a01702202707520971c1a110a05682e702e7312080897fecfaa0610001a002200"
            )
        );
    }
}
