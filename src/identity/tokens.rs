//! The memory of bearer tokens that upstream has accepted.
//!
//! Offline, a token is known only if upstream has accepted that very token before: what a JWT claims is **not** trusted
//! before that, because anybody can write claims. Once upstream has answered a request with it, its signature has been
//! verified by the one that may, and the claims say which service account it is.
//!
//! A token is never kept, only its hash under a key of the node: the store alone does not tell whether a token is in it.
//! Does not know where records and key are stored; whoever calls persists what is returned.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::claims::{PodReference, bound_pod, expiry, service_account};
use super::credential::BearerToken;
use super::hash::{NodeKey, TokenHash};
use super::principal::{Principal, PrincipalKind};

/// Far above the number of tokens that one node sees between two renewals.
const CAPACITY: usize = 10_000;

/// Of one principal: whoever may ask for tokens as he likes must not push out those of all others.
const CAPACITY_OF_ONE: usize = 500;

/// As kube-apiserver's own leeway (`pkg/serviceaccount/claims.go`).
const LEEWAY: Duration = Duration::from_secs(60);

/// How old `accepted_at` may become before it is rewritten: each request would else be a write.
const REFRESH_SECONDS: u64 = 3600;

/// What is known of an accepted token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Whose it is.
    pub principal: Principal,
    /// Unix seconds of its expiry, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Unix seconds at which upstream accepted it, up to an hour behind the last time.
    pub accepted_at: u64,
    /// The pod that it is bound to: without it upstream would accept it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodReference>,
}

impl TokenRecord {
    /// Whether it had not expired at `moment`: now, or the last contact with the cloud, as the configuration has it.
    pub fn valid_at(&self, moment: SystemTime) -> bool {
        self.exp
            .is_none_or(|exp| unix_seconds(moment) < exp.saturating_add(LEEWAY.as_secs()))
    }
}

/// What is known of the signature of a token that upstream has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// By a key of the cluster.
    Good,
    /// By a key that is not known, or may come to be: anybody may have made it up.
    Unknown,
}

/// What became of an accepted token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whose it is.
    pub principal: Principal,
    /// To be written down: it is new, or was last written an hour ago.
    pub changed: Option<(TokenHash, TokenRecord)>,
    /// To be deleted: the one not used for longest, to make room.
    pub evicted: Option<TokenHash>,
    /// The refusal that no longer stands, of either kind, to be deleted too.
    pub was_refused: Option<TokenHash>,
}

/// The order of eviction: what was restored and not used since goes first, by age; then by last use. Not by the clock,
/// which may have restarted in 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LastUse {
    Restored(u64, TokenHash),
    Used(u64),
}

struct Remembered {
    record: TokenRecord,
    last_use: LastUse,
}

/// The memory. At most 10 000 tokens, 500 of one principal.
pub struct TokenMemory {
    key: [u8; 32],
    refused: Refused,
    doubted: Refused,
    records: HashMap<TokenHash, Remembered>,
    order: BTreeMap<LastUse, TokenHash>,
    uses: u64,
}

impl TokenMemory {
    /// Empty; the caller restores what it has stored.
    pub fn new(key: &NodeKey) -> Self {
        Self {
            // A key of its own, so that the node key may serve other purposes too.
            key: blake3::derive_key("edgehold bearer token hash v1", key.as_bytes()),
            refused: Refused::default(),
            doubted: Refused::default(),
            records: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Takes back a stored record. Returns what had to go for it.
    pub fn restore(&mut self, hash: TokenHash, record: TokenRecord) -> Option<TokenHash> {
        let last_use = LastUse::Restored(record.accepted_at, hash);
        self.put(hash, record, last_use)
    }

    /// Upstream has accepted `token`: an apiserver itself (not a gateway before it) answered a request that carried
    /// it, on a connection without a certificate, with a success. Whose it is, if an apiserver has said so; it counts when
    /// the token is new.
    pub fn accepted(&mut self, token: &BearerToken, owner: Option<Principal>, now: SystemTime) -> Accepted {
        let hash = self.hash(token);
        let now = unix_seconds(now);
        let signed = self.signed_hash(token);
        let was_refused = self.refused.remove(&signed) | self.doubted.remove(&signed);
        self.uses += 1;
        let last_use = LastUse::Used(self.uses);
        if let Some(known) = self.records.get_mut(&hash) {
            self.order.remove(&known.last_use);
            self.order.insert(last_use, hash);
            known.last_use = last_use;
            let is_old = now.abs_diff(known.record.accepted_at) >= REFRESH_SECONDS;
            if is_old {
                known.record.accepted_at = now;
            }
            let changed = is_old.then(|| (hash, known.record.clone()));
            return Accepted {
                principal: known.record.principal.clone(),
                changed,
                evicted: None,
                was_refused: was_refused.then_some(signed),
            };
        }
        let record = TokenRecord {
            principal: owner.unwrap_or_else(|| claimed(token, hash)),
            exp: expiry(token),
            accepted_at: now,
            pod: bound_pod(token),
        };
        let of_its_own = self.make_room(&record.principal);
        let evicted = self.put(hash, record.clone(), last_use).or(of_its_own);
        Accepted {
            principal: record.principal.clone(),
            changed: Some((hash, record)),
            evicted,
            was_refused: was_refused.then_some(signed),
        }
    }

    /// The record of a token that upstream has accepted. Whether it is still valid is for the caller to ask.
    pub fn lookup(&self, token: &BearerToken) -> Option<&TokenRecord> {
        self.records
            .get(&self.hash(token))
            .map(|remembered| &remembered.record)
    }

    /// Upstream has refused `token` with 401. Returns what is to be deleted.
    pub fn forget(&mut self, token: &BearerToken) -> Option<TokenHash> {
        let hash = self.hash(token);
        let forgotten = self.records.remove(&hash)?;
        self.order.remove(&forgotten.last_use);
        Some(hash)
    }

    /// Upstream has refused `token` with 401 although its signature is good, or may turn out to be: no key may vouch for
    /// it again. Returns the refusal to be stored, and one of the same kind to be deleted to make room.
    pub fn distrust(
        &mut self,
        token: &BearerToken,
        signature: Signature,
    ) -> (Option<TokenHash>, Option<TokenHash>) {
        let hash = self.signed_hash(token);
        let refused = self.refusals(signature);
        if !refused.insert(hash) {
            return (None, None);
        }
        (Some(hash), refused.evict())
    }

    /// Takes up a stored refusal.
    pub fn restore_refusal(&mut self, hash: TokenHash, signature: Signature) {
        self.refusals(signature).insert(hash);
    }

    /// Whether upstream has refused this very token, and not accepted it since.
    pub fn is_refused(&self, token: &BearerToken) -> bool {
        let hash = self.signed_hash(token);
        self.refused.holds(&hash) || self.doubted.holds(&hash)
    }

    /// What cannot be told apart from an invention must not push out what can.
    fn refusals(&mut self, signature: Signature) -> &mut Refused {
        match signature {
            Signature::Good => &mut self.refused,
            Signature::Unknown => &mut self.doubted,
        }
    }

    /// Who `token` *would* be if upstream accepts it. Only to be used together with a 2xx of upstream to the request
    /// that carried it: until then this is what anybody may claim. Never for answering from the cache.
    pub fn candidate(&self, token: &BearerToken) -> Principal {
        match self.lookup(token) {
            Some(record) => record.principal.clone(),
            None => claimed(token, self.hash(token)),
        }
    }

    /// The token as a principal of its own, whatever it claims.
    pub fn itself(&self, token: &BearerToken) -> Principal {
        Principal::token(self.hash(token))
    }

    /// How many tokens are known.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn hash(&self, token: &BearerToken) -> TokenHash {
        TokenHash::from_bytes(*blake3::keyed_hash(&self.key, token.as_bytes()).as_bytes())
    }

    /// Of what is signed: a good signature can be written in another way that is good too.
    fn signed_hash(&self, token: &BearerToken) -> TokenHash {
        let bytes = token.as_bytes();
        let end = bytes
            .iter()
            .rposition(|byte| *byte == b'.')
            .unwrap_or(bytes.len());
        TokenHash::from_bytes(*blake3::keyed_hash(&self.key, bytes.get(..end).unwrap_or(bytes)).as_bytes())
    }

    /// Forgets the one that its principal has not used for longest, if there are as many as one may have.
    fn make_room(&mut self, principal: &Principal) -> Option<TokenHash> {
        if let PrincipalKind::Token { .. } = principal.kind() {
            // It is the only one.
            return None;
        }
        let is_own = |hash: &TokenHash| {
            let held = self.records.get(hash);
            held.is_some_and(|held| held.record.principal == *principal)
        };
        let mut own = self.order.iter().filter(|(_, hash)| is_own(hash));
        let (last_use, hash) = own.next().map(|(last_use, hash)| (*last_use, *hash))?;
        if own.count() + 1 < CAPACITY_OF_ONE {
            return None;
        }
        self.order.remove(&last_use);
        self.records.remove(&hash);
        Some(hash)
    }

    fn put(&mut self, hash: TokenHash, record: TokenRecord, last_use: LastUse) -> Option<TokenHash> {
        if let Some(replaced) = self.records.insert(hash, Remembered { record, last_use }) {
            self.order.remove(&replaced.last_use);
        }
        self.order.insert(last_use, hash);
        if self.records.len() <= CAPACITY {
            return None;
        }
        let (_, evicted) = self.order.pop_first()?;
        self.records.remove(&evicted);
        Some(evicted)
    }
}

impl fmt::Debug for TokenMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMemory")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Hashes of the signed parts of tokens that upstream has refused, in the order in which it did. At most 10 000.
#[derive(Default)]
struct Refused {
    numbers: HashMap<TokenHash, u64>,
    order: BTreeMap<u64, TokenHash>,
    next: u64,
}

impl Refused {
    /// `false`: it was there.
    fn insert(&mut self, hash: TokenHash) -> bool {
        if self.numbers.contains_key(&hash) {
            return false;
        }
        self.numbers.insert(hash, self.next);
        self.order.insert(self.next, hash);
        self.next += 1;
        true
    }

    fn holds(&self, hash: &TokenHash) -> bool {
        self.numbers.contains_key(hash)
    }

    /// Whether it was there.
    fn remove(&mut self, hash: &TokenHash) -> bool {
        let number = self.numbers.remove(hash);
        number.is_some_and(|number| self.order.remove(&number).is_some())
    }

    /// The oldest, if there are too many.
    fn evict(&mut self) -> Option<TokenHash> {
        if self.numbers.len() <= CAPACITY {
            return None;
        }
        let (_, oldest) = self.order.pop_first()?;
        self.numbers.remove(&oldest);
        Some(oldest)
    }
}

/// The service account of the claims, or the token itself. Anything out of the ordinary is the token itself: that
/// principal shares with nobody.
fn claimed(token: &BearerToken, hash: TokenHash) -> Principal {
    service_account(token).unwrap_or_else(|| Principal::token(hash))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
