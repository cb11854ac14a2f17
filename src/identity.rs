//! Who a request is: the principal of a verified certificate or of a bearer token.
//!
//! Owns the reading of credentials from a request and the memory of tokens that upstream has accepted. Pure: no
//! sockets, no files, no clock. Decides nothing about rights: that is upstream's, and offline what upstream said.
//!
//! Invariants: nothing a client merely claims (User-Agent, `X-Remote-*`, the content of a token that upstream has not
//! accepted) makes it a principal; two principals never have the same key; a request in which upstream might find a
//! credential that we do not understand is never taken for anonymous.

mod audiences;
mod claims;
mod credential;
mod hash;
mod impersonation;
mod issuer;
mod jwt;
mod principal;
mod tokens;
mod user;

pub use audiences::Audiences;
pub use claims::PodReference;
pub use credential::{BearerToken, Credential, Malformed, Moved, strip_credentials, token_to_authorization};
pub use hash::{NodeKey, NodeKeyError, TokenHash};
pub use impersonation::{impersonates, strip_front_proxy};
pub use issuer::{Issuer, IssuerError, Unverified, Verified};
pub use jwt::unverified_claims;
pub use principal::{Principal, PrincipalKind};
pub use tokens::{Accepted, Signature, TokenMemory, TokenRecord};
pub use user::{REVIEW, REVIEW_PATH, reviewed};
