//! TLS: the only layer that names rustls. PEM files, their reload schedule, server and client configurations.
//!
//! Owns what a certificate file means, when it is looked at again, which of its values is in use, and the
//! handshakes on both sides. Knows nothing of HTTP, of Kubernetes or of who a certificate stands for: callers get
//! [`PeerCertificate`], [`ClientIdentity`], [`Roots`] and streams, never a rustls type.
//!
//! Invariants: a failed load never takes away a value that is still good; a value is complete and its key matches
//! before it is published; nothing here ends the process, whatever the files hold.

#[cfg(test)]
mod as_go;
mod certificate;
mod certificates;
mod client;
mod crypto;
mod expiry;
mod handshake;
mod inspect;
mod material;
mod pem;
mod pinned;
mod request;
mod requested;
mod revocation;
mod schedule;
mod seal;
mod server;
mod signed;
mod standing;
mod status;
#[cfg(test)]
mod testing;
mod time;
mod trust;
mod v1;
mod verify;

pub use certificate::{CertificateInfo, CertificateParseError, Validity};
pub use certificates::{Certificates, Config};
pub use client::{
    Alpn, ClientStream, ClientTls, ServerName, ServerNameError, TlsConnectError, TlsConnectErrorKind, agreed,
};
pub use crypto::warm_up;
pub use handshake::TlsConfigError;
pub use inspect::PairInfo;
pub use material::ServerMaterial;
pub use pem::{ClientIdentity, LoadError, PairPaths, PairSource, Roots, Unusual, check_bundle, check_pair};
pub use request::{AltName, NotAName, RequestError, RequestKey, RequestSubject, ServingLeaf};
pub use requested::{NotPlain, Requested};
pub use revocation::RevocationLists;
pub use seal::FileSeal;
pub use server::{
    HandshakeError, HandshakeErrorKind, PeerCertificate, ServerStream, ServerTls, accept, alpn,
    peer_certificate,
};
pub use standing::{Material, NotGood, Standing};
pub use status::{CertificateKind, CertificateState, CertificateStatus};
pub use time::{ClockOffset, Expiry, TrustedTime};
pub use trust::ClientTrust;
