//! References to Secrets and ConfigMaps that hold certificates: `secretRef`, `caConfigMapRef`, `clientCAConfigMapRef`.

use std::path::{Path, PathBuf};

use super::error::{Fault, quoted};
use super::object::Object;
use super::reference::Names;

/// An object of the cluster, and the client that may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterialRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The common name of a configured client whose certificate comes from files.
    pub client: String,
    /// The entry with the bundle; empty for a Secret.
    pub key: String,
    /// Absolute path of the file that the content is kept in.
    pub file: PathBuf,
}

/// The folder of what comes from the cluster.
pub(super) fn directory(cache_path: &Path) -> PathBuf {
    cache_path.join("material")
}

/// `secretRef`.
pub(super) fn secret(parent: &mut Object<'_>, file: PathBuf, names: &Names) -> Option<MaterialRef> {
    parent.optional("secretRef", |field| {
        field.object(|secret| read(secret, String::new(), file, names))
    })
}

pub(super) fn config_map(
    parent: &mut Object<'_>,
    field: &'static str,
    file: PathBuf,
    names: &Names,
) -> Option<MaterialRef> {
    parent.optional(field, |field| {
        field.object(|map| {
            let key = map.or("key", "ca.crt".to_owned(), |field| field.parse(key));
            read(map, key, file, names)
        })
    })
}

fn read(object: &mut Object<'_>, key: String, file: PathBuf, names: &Names) -> Option<MaterialRef> {
    let [namespace, name] = ["namespace", "name"].map(|part| object.required(part)?.parse(object_name));
    let client = object.required("client").and_then(|field| names.reader(&field));
    Some(MaterialRef {
        namespace: namespace?,
        name: name?,
        client: client?,
        key,
        file,
    })
}

/// As kube-apiserver takes it (RFC 1123): it becomes part of a path.
fn object_name(text: &str) -> Result<String, Fault> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{} is not the name of an object", quoted(text)),
        "write it as kubectl shows it",
    ))
}

/// As kube-apiserver takes keys of a ConfigMap.
fn key(text: &str) -> Result<String, Fault> {
    let fits = (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Fault::new(
            format!("{} is not a key of a ConfigMap", quoted(text)),
            "write it like ca.crt",
        )
    })
}
