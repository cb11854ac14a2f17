//! The codes of what can be wrong with a node, as docs/troubleshooting.md explains them: in status, metrics and alerts, and in what
//! clients are told.

/// The kinds of problems. Codes are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The cloud is away.
    LinkDown,
    /// One of several servers is.
    ServerDown,
    /// The link comes and goes.
    Flapping,
    /// A certificate file is not there.
    CertificateMissing,
    /// A certificate cannot be used.
    CertificateUnusable,
    /// A certificate has expired.
    CertificateExpired,
    /// A certificate is not valid yet.
    CertificateNotYetValid,
    /// A certificate ends soon.
    CertificateEnding,
    /// An apiserver answers 401 to a configured client.
    PairRefused,
    /// An apiserver answers 403 to one.
    Forbidden,
    /// The cache is in memory, though it should be on disk.
    InMemory,
    /// The disk refuses writes.
    WritesFail,
    /// Files of the cache are damaged.
    Damaged,
    /// The clock of this node is wrong.
    Clock,
    /// A configured client is over its limit.
    OverLimit,
    /// The configuration file is not right.
    Configuration,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::LinkDown,
        Self::ServerDown,
        Self::Flapping,
        Self::CertificateMissing,
        Self::CertificateUnusable,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateEnding,
        Self::PairRefused,
        Self::Forbidden,
        Self::InMemory,
        Self::WritesFail,
        Self::Damaged,
        Self::Clock,
        Self::OverLimit,
        Self::Configuration,
    ];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LinkDown => "EH001",
            Self::ServerDown => "EH002",
            Self::Flapping => "EH003",
            Self::CertificateMissing => "EH010",
            Self::CertificateUnusable => "EH011",
            Self::CertificateExpired => "EH012",
            Self::CertificateNotYetValid => "EH013",
            Self::CertificateEnding => "EH014",
            Self::PairRefused => "EH020",
            Self::Forbidden => "EH021",
            Self::InMemory => "EH030",
            Self::WritesFail => "EH031",
            Self::Damaged => "EH032",
            Self::Clock => "EH040",
            Self::OverLimit => "EH050",
            Self::Configuration => "EH060",
        }
    }
}

/// A text, and in brackets the codes of the problems that it comes from.
pub fn coded(text: &str, codes: impl IntoIterator<Item = Code>) -> String {
    let codes: Vec<_> = codes.into_iter().map(Code::as_str).collect();
    match codes.is_empty() {
        true => text.to_owned(),
        false => format!("{text} ({})", codes.join(", ")),
    }
}
