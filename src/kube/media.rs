//! Media types and the negotiated form of an answer (wire contract, section 2).

/// How the bytes of a body are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`; it can neither be watched nor split.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/cbor` (and `application/cbor-seq` for watches).
    Cbor,
}

impl Encoding {
    /// A short stable name: used in keys on disk, metric labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Protobuf => "protobuf",
            Self::Cbor => "cbor",
        }
    }
}
