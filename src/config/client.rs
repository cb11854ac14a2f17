//! The fields of `clients[]` and of `limits`.

use std::path::{Path, PathBuf};

use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, refuse_repeats};
use super::schema::{common_name, file};
use super::serving::References;
use super::{Client, Limits, MaterialRef, material};

/// Priorities beyond this, either way, are no ranks that anybody needs.
const FARTHEST_PRIORITY: i32 = 1000;

pub(super) fn read_clients<'n>(
    field: &Field<'n>,
    cache_path: &Path,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Vec<Client>> {
    let items = field.items(out)?;
    let count = items.len();
    let mut clients = Vec::new();
    let mut names = Vec::new();
    for item in items {
        let known = [
            "commonName",
            "certFile",
            "keyFile",
            "secretRef",
            "limits",
            "priority",
        ];
        let Some(object) = item.object(&known, out) else {
            continue;
        };
        let name = object.required("commonName", out);
        let name = name.and_then(|field| Some((field.parse(common_name, out)?, field)));
        let named = name.as_ref().map_or("", |(name, _)| name);
        let to = kept_in(cache_path, named);
        let secret_ref = material::read_secret(&object, to, references, out);
        let files = read_files(&object, secret_ref.as_ref(), out);
        let limits = read_limits(&object, out);
        let priority = object.get("priority").and_then(|field| priority(&field, out));
        let Some((common_name, field)) = name else {
            continue;
        };
        names.push((field, common_name.clone()));
        if let (Some((cert_file, key_file)), Some(secret_ref)) = (files, secret_ref) {
            clients.push(Client {
                common_name,
                cert_file,
                key_file,
                secret_ref,
                limits,
                priority,
            });
        }
    }
    refuse_repeats(&names, out);
    (clients.len() == count).then_some(clients)
}

/// Certificate and key: two files, or the one that the content of the Secret is kept in.
fn read_files(
    client: &Object<'_>,
    secret_ref: Option<&Option<MaterialRef>>,
    out: &mut Problems,
) -> Option<(PathBuf, PathBuf)> {
    let Some(field) = client.get("secretRef") else {
        let (cert, key) = (file(client, "certFile", out), file(client, "keyFile", out));
        return Some((cert?, key?));
    };
    if client.get("certFile").is_some() || client.get("keyFile").is_some() {
        field.refuse(
            Fault::new("is given beside certFile or keyFile", "keep one of both"),
            out,
        );
    }
    let kept = &secret_ref?.as_ref()?.file;
    Some((kept.clone(), kept.clone()))
}

/// A common name may hold anything; a file name may not.
fn kept_in(cache_path: &Path, common_name: &str) -> PathBuf {
    let digest = blake3::hash(common_name.as_bytes()).to_hex();
    let digest = digest.get(..32).unwrap_or_default();
    cache_path
        .join("material")
        .join(format!("client-{digest}.sealed"))
}

/// The `limits` of a client or of the default client, if there are any and they are right.
pub(super) fn read_limits(client: &Object<'_>, out: &mut Problems) -> Option<Limits> {
    let object = client
        .get("limits")?
        .object(&["qps", "burst", "inFlight", "watches"], out)?;
    let qps = object.required("qps", out);
    let qps = qps.and_then(|field| above_zero(&field, "a number", |_| true, out));
    let burst = object.required("burst", out);
    let burst = burst.and_then(|field| count(&field, out));
    let in_flight = object.get("inFlight").map(|field| count(&field, out));
    let watches = object.get("watches").map(|field| count(&field, out));
    Some(Limits {
        qps: qps?,
        burst: burst?,
        in_flight: match in_flight {
            Some(wrong_or_right) => Some(wrong_or_right?),
            None => None,
        },
        watches: match watches {
            Some(wrong_or_right) => Some(wrong_or_right?),
            None => None,
        },
    })
}

fn count(field: &Field<'_>, out: &mut Problems) -> Option<u32> {
    let whole = |number: f64| number.fract() == 0.0 && number <= f64::from(u32::MAX);
    let number = above_zero(field, "a whole number", whole, out)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above: whole, positive and at most u32::MAX"
    )]
    Some(number as u32)
}

fn above_zero(field: &Field<'_>, kind: &str, fits: impl Fn(f64) -> bool, out: &mut Problems) -> Option<f64> {
    let number = field.number(out)?;
    if number > 0.0 && fits(number) {
        return Some(number);
    }
    let wrong = format!("{} is not {kind} above zero", quoted(&number.to_string()));
    field.refuse(Fault::new(wrong, "write requests, like 100"), out);
    None
}

fn priority(field: &Field<'_>, out: &mut Problems) -> Option<i32> {
    let number = field.number(out)?;
    if number.fract() != 0.0 || number.abs() > f64::from(FARTHEST_PRIORITY) {
        let wrong = format!(
            "{} is not a whole number from -{FARTHEST_PRIORITY} to {FARTHEST_PRIORITY}",
            quoted(&number.to_string())
        );
        field.refuse(Fault::new(wrong, "the higher goes first; a kubelet has 100"), out);
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above: whole and small")]
    Some(number as i32)
}
