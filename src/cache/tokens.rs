//! The memory of accepted tokens, kept over restarts: keyed hashes and principals, never a token.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::identity::{
    BearerToken, NodeKey, NodeKeyError, Principal, Signature, TokenHash, TokenMemory, TokenRecord,
};
use crate::runtime::clock;
use crate::runtime::strand::Strand;
use crate::runtime::tasks::Tasks;
use crate::store::{Change, Log, LogId, Store, StoreError};

/// The owner of what belongs to the node itself; no principal has such a key.
const NODE: &str = "edgehold";
const NODE_KEY: &[u8] = b"node-key";
/// Before the hash of a token that was refused though its signature was good; its value is empty.
const REFUSED: &str = "refused/";
/// The same where it was not known whether it was.
const DOUBTED: &str = "doubted/";
const HEADER: &[u8] = br#"{"kind":"tokens","version":1}"#;

/// Why the memory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The disk.
    #[error("cannot open the memory of tokens: {0}")]
    Store(#[from] StoreError),
    /// The random generator.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
}

/// What the acceptance of a token was to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// New, or not written down for an hour.
    Written,
    /// Nothing new.
    Known,
}

/// The memory and its log.
pub struct StoredTokens {
    memory: Mutex<TokenMemory>,
    log: Strand<Arc<dyn Log>>,
    key: NodeKey,
}

impl StoredTokens {
    /// Restores what the store holds; makes the node key on the first start. Blocks.
    ///
    /// # Errors
    /// The store or the random generator.
    pub fn open(store: &Arc<dyn Store>, tasks: &Tasks) -> Result<Self, TokensError> {
        let log = store.create(&LogId::new(NODE, "tokens"), HEADER)?;
        let stored = log
            .get(NODE_KEY)?
            .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_ref()).ok());
        let key = match stored {
            Some(bytes) => NodeKey::from_bytes(bytes),
            None => {
                let key = NodeKey::generate()?;
                log.append(
                    Change::Put {
                        key: NODE_KEY,
                        value: key.as_bytes(),
                    },
                    "",
                    clock::wall(),
                )?;
                key
            }
        };
        let mut memory = TokenMemory::new(&key);
        for entry in log.snapshot().entries() {
            let (name, value) = entry?;
            let name = std::str::from_utf8(&name).unwrap_or_default();
            if let Some((signature, hash)) = refusal(name) {
                if let Ok(hash) = hash.parse() {
                    memory.restore_refusal(hash, signature);
                }
                continue;
            }
            let hash = name.parse::<TokenHash>().ok();
            let record = serde_json::from_slice::<TokenRecord>(&value).ok();
            if let (Some(hash), Some(record)) = (hash, record) {
                memory.restore(hash, record);
            }
        }
        Ok(Self {
            memory: Mutex::new(memory),
            log: Strand::spawn(tasks, log),
            key,
        })
    }

    /// The node's secret key, from which other keys are derived.
    pub fn node_key(&self) -> &NodeKey {
        &self.key
    }

    /// Who a token would be; only together with an apiserver's answer other than 401 to the request that carried it.
    pub fn candidate(&self, token: &BearerToken) -> Principal {
        self.memory.lock().candidate(token)
    }

    /// The token as a principal of its own, whatever it claims.
    pub fn itself(&self, token: &BearerToken) -> Principal {
        self.memory.lock().itself(token)
    }

    /// Whether upstream has accepted this very token before, expired or not.
    pub fn remembers(&self, token: &BearerToken) -> bool {
        self.memory.lock().lookup(token).is_some()
    }

    /// What is known of a token that upstream has accepted before and that had not expired at `moment`.
    pub fn known(&self, token: &BearerToken, moment: SystemTime) -> Option<TokenRecord> {
        self.memory
            .lock()
            .lookup(token)
            .filter(|record| record.valid_at(moment))
            .cloned()
    }

    /// An apiserver itself has accepted a token, and may have said whose it is. Whether that was written down: it is new, or
    /// was last an hour ago.
    pub fn accepted(&self, token: &BearerToken, owner: Option<Principal>, now: SystemTime) -> Noted {
        let accepted = self.memory.lock().accepted(token, owner, now);
        let noted = match accepted.changed {
            Some(_) => Noted::Written,
            None => Noted::Known,
        };
        if let Some((hash, record)) = accepted.changed {
            self.log.post(move |log| {
                let Ok(value) = serde_json::to_vec(&record) else {
                    return;
                };
                write(
                    log,
                    Change::Put {
                        key: hash.to_string().as_bytes(),
                        value: &value,
                    },
                );
            });
        }
        if let Some(hash) = accepted.evicted {
            self.erase(hash.to_string());
        }
        if let Some(hash) = accepted.was_refused {
            for signature in [Signature::Good, Signature::Unknown] {
                self.erase(format!("{}{hash}", prefix(signature)));
            }
        }
        noted
    }

    /// An apiserver itself has refused a token with 401: the credential is forgotten, the data is not.
    pub fn refused(&self, token: &BearerToken) {
        let forgotten = self.memory.lock().forget(token);
        if let Some(hash) = forgotten {
            self.erase(hash.to_string());
        }
    }

    /// The same for a token whose signature is or may be good: the cluster's keys must not vouch for it again.
    pub fn distrusted(&self, token: &BearerToken, signature: Signature) {
        let (refused, evicted) = self.memory.lock().distrust(token, signature);
        let prefix = prefix(signature);
        if let Some(hash) = refused {
            self.log.post(move |log| {
                let key = format!("{prefix}{hash}");
                write(
                    log,
                    Change::Put {
                        key: key.as_bytes(),
                        value: b"",
                    },
                );
            });
        }
        if let Some(hash) = evicted {
            self.erase(format!("{prefix}{hash}"));
        }
    }

    /// Whether an apiserver has refused this very token, and not accepted it since.
    pub fn is_refused(&self, token: &BearerToken) -> bool {
        self.memory.lock().is_refused(token)
    }

    /// Waits until all of it is with the store.
    pub async fn settle(&self) {
        self.log.settle().await;
    }

    fn erase(&self, key: String) {
        self.log
            .post(move |log| write(log, Change::Delete { key: key.as_bytes() }));
    }
}

fn prefix(signature: Signature) -> &'static str {
    match signature {
        Signature::Good => REFUSED,
        Signature::Unknown => DOUBTED,
    }
}

/// The key of a refusal, taken apart.
fn refusal(name: &str) -> Option<(Signature, &str)> {
    [Signature::Good, Signature::Unknown]
        .into_iter()
        .find_map(|signature| Some((signature, name.strip_prefix(prefix(signature))?)))
}

fn write(log: &Arc<dyn Log>, change: Change<'_>) {
    if let Err(error) = log.append(change, "", clock::wall()) {
        tracing::warn!(%error, "the memory of tokens could not be written");
    }
}
