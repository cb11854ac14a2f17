//! References to Secrets and ConfigMaps that hold certificates: `secretRef`, `caConfigMapRef`, `clientCAConfigMapRef`.

use std::path::PathBuf;

use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default};
use super::schema::common_name;
use super::serving::{Needs, Reference, References};

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

/// `Some(None)` without the field.
pub(super) fn read_secret<'n>(
    parent: &Object<'n>,
    to: PathBuf,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Option<MaterialRef>> {
    match parent.get("secretRef") {
        None => Some(None),
        Some(field) => {
            let object = field.object(&["namespace", "name", "client"], out)?;
            read(&object, to, references, out).map(Some)
        }
    }
}

/// `Some(None)` without the field.
pub(super) fn read_config_map<'n>(
    parent: &Object<'n>,
    field: &str,
    to: PathBuf,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Option<MaterialRef>> {
    match parent.get(field) {
        None => Some(None),
        Some(field) => {
            let object = field.object(&["namespace", "name", "key", "client"], out)?;
            let key = or_default(object.get("key"), "ca.crt".to_owned(), |field| {
                field.parse(key, out)
            });
            let found = read(&object, to, references, out);
            Some(Some(MaterialRef { key: key?, ..found? }))
        }
    }
}

fn read<'n>(
    object: &Object<'n>,
    file: PathBuf,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<MaterialRef> {
    let mut part = |name| {
        object
            .required(name, out)
            .and_then(|field: Field<'n>| field.parse(object_name, out))
    };
    let (namespace, name) = (part("namespace"), part("name"));
    let client = object.required("client", out).and_then(|field| {
        let client = field.parse(common_name, out)?;
        references.push(Reference {
            field,
            name: client.clone(),
            needs: Needs::Files,
        });
        Some(client)
    });
    Some(MaterialRef {
        namespace: namespace?,
        name: name?,
        client: client?,
        key: String::new(),
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
