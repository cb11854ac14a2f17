//! Why the interface is not as wanted.

use super::plan::OtherKind;

/// Why the interface is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The name belongs to something else.
    #[error(
        "the name belongs to an interface of kind {} that edgehold does not touch: set another \
         listen.dummyInterface.name, or remove that interface",
        kind.as_deref().unwrap_or("hardware")
    )]
    OtherKind {
        /// What it is; `None` for hardware.
        kind: Option<String>,
    },
    /// The process may not change interfaces.
    #[error(
        "not permitted: give edgehold CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN), or make the \
         interface and its addresses beforehand"
    )]
    NotPermitted,
    /// The kernel cannot make such interfaces.
    #[error("the kernel has no driver for dummy interfaces: load the module `dummy`")]
    NoDriver,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<OtherKind> for Problem {
    fn from(OtherKind(kind): OtherKind) -> Self {
        Self::OtherKind { kind }
    }
}
