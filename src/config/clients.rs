//! `clients`, and the limits that `defaultClient` has too.

use std::path::{Path, PathBuf};

use crate::proxy::{Limit, Priority};

use super::error::{Fault, quoted};
use super::material::{self, MaterialRef};
use super::object::{Distinct, Field, Object};
use super::reference::Names;
use super::text;

/// Priorities beyond this, either way, are no ranks that anybody needs.
const FARTHEST_PRIORITY: i64 = 1000;

/// One of `clients`: a certificate identity and the pair that speaks for it upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The subject's common name, never empty.
    pub common_name: String,
    /// Absolute path of the client certificate; may not exist yet.
    pub cert_file: PathBuf,
    /// Absolute path of its key, often the same file; may not exist yet.
    pub key_file: PathBuf,
    /// The Secret that both come from; then they are the file that its content is kept in.
    pub secret_ref: Option<MaterialRef>,
    /// How fast this client may ask.
    pub limits: Option<Limit>,
    /// Where clients wait for each other, the higher goes first; `None`: the default for its name.
    pub priority: Option<Priority>,
}

pub(super) fn read(clients: &Field<'_>, cache_path: &Path, names: &Names) -> Vec<Client> {
    let mut distinct = Distinct::default();
    let clients = clients.items();
    let read = clients
        .iter()
        .filter_map(|client| client.object(|client| read_client(client, cache_path, names, &mut distinct)));
    read.collect()
}

fn read_client(
    client: &mut Object<'_>,
    cache_path: &Path,
    names: &Names,
    distinct: &mut Distinct,
) -> Option<Client> {
    let common_name = client.required("commonName").and_then(|field| {
        let name = field.parse(text::common_name)?;
        distinct.note(&field, name.clone());
        Some(name)
    });
    let [cert, key, secret] = ["certFile", "keyFile", "secretRef"].map(|name| client.get(name));
    let limits = limits(client);
    let priority = client.optional("priority", |field| {
        let range = -FARTHEST_PRIORITY..=FARTHEST_PRIORITY;
        let in_words = format!("from -{FARTHEST_PRIORITY} to {FARTHEST_PRIORITY}");
        let fix = "the higher goes first; a kubelet has 100";
        field.whole(range, &in_words, fix).map(Priority)
    });
    let kept = kept_in(cache_path, common_name.as_deref().unwrap_or_default());
    let secret_ref = material::secret(client, kept, names);
    // Certificate and key: two files, or the one that the content of the Secret is kept in.
    let files = match (secret, &secret_ref) {
        (None, _) => client.file("certFile").zip(client.file("keyFile")),
        (Some(secret), kept) => {
            if cert.or(key).is_some() {
                let fault = Fault::new("is given beside certFile or keyFile", "keep one of both");
                secret.refuse(fault);
            }
            kept.as_ref().map(|kept| (kept.file.clone(), kept.file.clone()))
        }
    };
    let (cert_file, key_file) = files?;
    Some(Client {
        common_name: common_name?,
        cert_file,
        key_file,
        secret_ref,
        limits,
        priority,
    })
}

/// A common name may hold anything; a file name may not.
fn kept_in(cache_path: &Path, common_name: &str) -> PathBuf {
    let digest = blake3::hash(common_name.as_bytes()).to_hex();
    let digest = digest.get(..32).unwrap_or_default();
    material::directory(cache_path).join(format!("client-{digest}.sealed"))
}

/// The `limits` of a client or of the default client.
pub(super) fn limits(client: &mut Object<'_>) -> Option<Limit> {
    client.optional("limits", |field| {
        field.object(|limits| {
            let qps = limits.required("qps").and_then(|field| above_zero(&field));
            let burst = limits.required("burst").and_then(|field| count(&field));
            let in_flight = limits.optional("inFlight", count);
            let watches = limits.optional("watches", count);
            Some(Limit {
                qps: qps?,
                burst: burst?,
                in_flight,
                watches,
            })
        })
    })
}

fn count(field: &Field<'_>) -> Option<u32> {
    field.whole(1..=u32::MAX.into(), "above zero", FIX)
}

fn above_zero(field: &Field<'_>) -> Option<f64> {
    let number = field.number()?;
    if number <= 0.0 {
        let wrong = format!("{} is not a number above zero", quoted(&number.to_string()));
        field.refuse(Fault::new(wrong, FIX));
        return None;
    }
    Some(number)
}

const FIX: &str = "write requests, like 100";
