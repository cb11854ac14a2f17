//! Certificates and authorities from objects of the cluster: a Secret with a pair, a ConfigMap with a bundle.
//!
//! Each is read and watched with the rights of a configured client, and what it holds is written as a file that the
//! certificates of the process watch like any other: a pair sealed, a bundle plain. So a node starts without its
//! cloud. Invariant: an object that is missing, unreadable or malformed leaves the file as it is.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::tls::{FileSeal, Validity, check_bundle, check_pair};

use super::client::{ApiClient, ApiError, text};
use super::serving::prepare;

/// Between two reads, so that an object that changes all the time costs little.
const PACE: Duration = Duration::from_millis(500);
/// Between two tries; doubles from the first.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// An object of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What to take, and where to.
#[derive(Debug, Clone)]
pub enum Material {
    /// `tls.crt` and `tls.key` of a Secret.
    Pair {
        /// The Secret.
        from: ObjectRef,
        /// The sealed file, chain and key.
        to: PathBuf,
        /// Seals it.
        seal: Arc<FileSeal>,
        /// What the certificate's common name must be.
        common_name: Option<String>,
    },
    /// A bundle of authorities in a ConfigMap.
    Bundle {
        /// The ConfigMap.
        from: ObjectRef,
        /// The entry of its `data`.
        key: String,
        /// The file, PEM.
        to: PathBuf,
    },
}

/// Keeps the file as the object is, for as long as `tasks` runs.
pub fn spawn(material: Material, client: ApiClient, tasks: &Tasks) {
    let keeper = Keeper {
        material: Arc::new(material),
        client,
        tasks: tasks.clone(),
    };
    let cancelled = tasks.cancelled().clone();
    tasks.spawn("material", async move {
        tokio::select! {
            () = keeper.run() => {}
            () = cancelled.cancelled() => {}
        }
    });
}

/// Why an object was not taken. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("it has no {0}")]
    Lacks(String),
    #[error("{0} is not text in base64")]
    NotBase64(&'static str),
    #[error("{0}")]
    Unusable(String),
    #[error("it expired")]
    Expired,
    #[error("{0}")]
    NotKept(String),
}

/// Whether the file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Replaced,
    Same,
}

struct Keeper {
    material: Arc<Material>,
    client: ApiClient,
    tasks: Tasks,
}

impl Keeper {
    async fn run(self) {
        let (collection, name) = self.material.place();
        let object_path = format!("{collection}/{name}");
        let mut retry = FIRST_RETRY;
        let mut said = String::new();
        loop {
            let failed = match self.client.get(&object_path).await {
                Ok(object) => {
                    self.take(&object, &object_path, &mut said).await;
                    let version = text(&object, "/metadata/resourceVersion");
                    tokio::time::sleep(PACE).await;
                    self.client.changed(&collection, &name, version).await.err()
                }
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                retry = FIRST_RETRY;
                continue;
            };
            if matches!(error, ApiError::Unreachable(_)) {
                tracing::debug!(object = object_path, %error, "not to be had now, what was kept stays");
            } else {
                say(&mut said, &error.to_string(), &object_path, self.client.name());
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn take(&self, object: &Value, path: &str, said: &mut String) {
        let (material, object) = (Arc::clone(&self.material), object.clone());
        let kept = self
            .tasks
            .spawn_blocking(move || {
                material
                    .content(&object)
                    .and_then(|content| material.keep(&content))
            })
            .await
            .unwrap_or_else(|error| Err(Refusal::NotKept(error.to_string())));
        match kept {
            Ok(Kept::Replaced) => {
                tracing::info!(object = path, "certificate material taken from the cluster")
            }
            Ok(Kept::Same) => {}
            Err(refusal) => return say(said, &refusal.to_string(), path, self.client.name()),
        }
        said.clear();
    }
}

/// Once for each thing that is wrong.
fn say(said: &mut String, wrong: &str, object: &str, client: &str) {
    if said != wrong {
        tracing::warn!(
            object,
            client,
            error = wrong,
            "certificate material not taken, what was kept stays"
        );
        wrong.clone_into(said);
    }
}

impl Material {
    /// The collection and the name.
    fn place(&self) -> (String, String) {
        let (from, resource) = match self {
            Self::Pair { from, .. } => (from, "secrets"),
            Self::Bundle { from, .. } => (from, "configmaps"),
        };
        let collection = format!("/api/v1/namespaces/{}/{resource}", from.namespace);
        (collection, from.name.clone())
    }

    /// What the file should hold, checked.
    fn content(&self, object: &Value) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Pair { common_name, .. } => {
                let (chain, key) = (secret_text(object, "tls.crt")?, secret_text(object, "tls.key")?);
                let leaf = check_pair(&chain, &key).map_err(|error| Refusal::Unusable(error.to_string()))?;
                let found = leaf.common_name.as_deref().unwrap_or_default();
                if common_name.as_ref().is_some_and(|expected| expected != found) {
                    return Err(Refusal::Unusable(format!("its common name is {found:?}")));
                }
                if leaf.validity(clock::wall()) == Validity::Expired {
                    return Err(Refusal::Expired);
                }
                Ok(format!("{chain}\n{key}").into_bytes())
            }
            Self::Bundle { key, .. } => {
                let data = object.pointer("/data").and_then(|data| data.get(key));
                let pem = data
                    .and_then(Value::as_str)
                    .ok_or_else(|| Refusal::Lacks(key.clone()))?;
                check_bundle(pem).map_err(|error| Refusal::Unusable(error.to_string()))?;
                Ok(pem.as_bytes().to_vec())
            }
        }
    }

    /// Replaces the file if it holds something else.
    fn keep(&self, content: &[u8]) -> Result<Kept, Refusal> {
        let (to, sealed) = match self {
            Self::Pair { to, seal, .. } => {
                let there = std::fs::read(to).ok().and_then(|sealed| seal.open(&sealed));
                if there.as_deref() == Some(content) {
                    return Ok(Kept::Same);
                }
                let sealed = seal.seal(content);
                (
                    to,
                    sealed.ok_or_else(|| Refusal::NotKept("no randomness".to_owned()))?,
                )
            }
            Self::Bundle { to, .. } => {
                if std::fs::read(to).is_ok_and(|there| there == content) {
                    return Ok(Kept::Same);
                }
                (to, content.to_vec())
            }
        };
        let not_kept = |error: io::Error| Refusal::NotKept(format!("{}: {error}", to.display()));
        write(to, &sealed).map_err(not_kept)?;
        Ok(Kept::Replaced)
    }
}

/// Whole or not at all, 0600.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    prepare(dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .tempfile_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

fn secret_text(object: &Value, name: &'static str) -> Result<String, Refusal> {
    let data = object.pointer("/data").and_then(|data| data.get(name));
    let data = data.and_then(Value::as_str).filter(|data| !data.is_empty());
    let data = data.ok_or_else(|| Refusal::Lacks(name.to_owned()))?;
    let bytes = STANDARD.decode(data).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(Refusal::NotBase64(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair(dir: &Path) -> Material {
        Material::Pair {
            from: ObjectRef {
                namespace: "edge".to_owned(),
                name: "proxy".to_owned(),
            },
            to: dir.join("a/pair.sealed"),
            seal: Arc::new(FileSeal::new([7; 32], "test")),
            common_name: None,
        }
    }

    #[test]
    fn an_object_without_what_is_asked_for_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let pair = pair(dir.path());
        let lacks = |name: &str| Err(Refusal::Lacks(name.to_owned()));
        for (object, refusal) in [
            (json!({}), lacks("tls.crt")),
            (json!({"data": {"tls.crt": ""}}), lacks("tls.crt")),
            (json!({"data": {"tls.crt": "UEVN"}}), lacks("tls.key")),
            (
                json!({"data": {"tls.crt": "?", "tls.key": "UEVN"}}),
                Err(Refusal::NotBase64("tls.crt")),
            ),
        ] {
            assert_eq!(pair.content(&object), refusal, "{object}");
        }
        let no_pem = pair.content(&json!({"data": {"tls.crt": "c2VjcmV0", "tls.key": "c2VjcmV0"}}));
        let said = no_pem.unwrap_err().to_string();
        assert!(!said.contains("secret"), "{said}");
        let bundle = Material::Bundle {
            from: ObjectRef {
                namespace: "default".to_owned(),
                name: "kube-root-ca.crt".to_owned(),
            },
            key: "ca.crt".to_owned(),
            to: dir.path().join("ca.crt"),
        };
        assert_eq!(bundle.content(&json!({"data": {"other": "x"}})), lacks("ca.crt"));
        assert!(matches!(
            bundle.content(&json!({"data": {"ca.crt": "x"}})),
            Err(Refusal::Unusable(_))
        ));
        assert_eq!(bundle.place().0, "/api/v1/namespaces/default/configmaps");
    }

    #[test]
    fn a_file_is_only_written_when_it_would_change_and_holds_nothing_plain() {
        let dir = tempfile::tempdir().unwrap();
        let pair = pair(dir.path());
        assert_eq!(pair.keep(b"a key"), Ok(Kept::Replaced));
        assert_eq!(pair.keep(b"a key"), Ok(Kept::Same));
        let kept = std::fs::read(dir.path().join("a/pair.sealed")).unwrap();
        assert!(!kept.windows(5).any(|part| part == b"a key"));
        assert_eq!(pair.keep(b"another"), Ok(Kept::Replaced));
        write(&dir.path().join("a/pair.sealed"), b"damaged").unwrap();
        assert_eq!(pair.keep(b"another"), Ok(Kept::Replaced));
    }
}
