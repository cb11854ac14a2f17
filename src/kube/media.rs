//! Media types and the negotiated form of an answer (wire contract, section 2).

mod accept;

use std::fmt;

pub use self::accept::{Clause, Offer, accept_clauses, acceptable, answered, negotiate};

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

    /// The encoding of a [`Representation`]'s text.
    pub fn of_form(form: &str) -> Option<Self> {
        let name = form.split([';', '?']).next().unwrap_or_default();
        [Self::Json, Self::Yaml, Self::Protobuf, Self::Cbor]
            .into_iter()
            .find(|encoding| encoding.as_str() == name)
    }

    /// The media type of an object or list in this encoding.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Cbor => "application/cbor",
        }
    }

    /// The `Content-Type` of a watch in this encoding (wire contract 2.2).
    pub fn watch_media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Self::Cbor => "application/cbor-seq",
            Self::Json | Self::Yaml => self.media_type(),
        }
    }

    /// The encoding of a response with this `Content-Type`; `None` for one that is not a Kubernetes encoding.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            "application/cbor" | "application/cbor-seq" => Some(Self::Cbor),
            _ => None,
        }
    }
}

/// Which transformation of the object an answer holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The whole object.
    Full,
    /// `PartialObjectMetadata` of the given `meta.k8s.io` version.
    Metadata(MetaVersion),
    /// `Table`.
    Table(Table),
}

/// Which `Table` an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table {
    /// Of this `meta.k8s.io` version.
    pub version: MetaVersion,
    /// What its rows hold.
    pub rows: Rows,
}

/// What each row of a `Table` holds beside its cells: the query parameter `includeObject` (wire contract 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rows {
    /// `PartialObjectMetadata`, as when nothing is asked for.
    #[default]
    Metadata,
    /// Nothing.
    None,
    /// The whole object.
    Object,
}

impl Rows {
    /// Reads a value of `includeObject`; `None` for one that is not known.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A version of the group `meta.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaVersion {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl MetaVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// The negotiated form of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Representation {
    /// How it is encoded.
    pub encoding: Encoding,
    /// What it holds.
    pub shape: Shape,
    /// The clauses of `Accept` that may have led to it, in canonical form, if one of them has a parameter that is not
    /// known; else empty. Such an answer is a representation of its own: what the parameter did to it is not known.
    pub unknown: String,
}

impl Representation {
    /// The whole object in the given encoding.
    pub fn full(encoding: Encoding) -> Self {
        Self {
            encoding,
            shape: Shape::Full,
            unknown: String::new(),
        }
    }
}

/// The stable text that keys on disk use: `json`, `protobuf;metadata/v1`, `json;table/v1`, `json;table/v1;None`. It has a
/// `=` if and only if something is not known: `json;drop=metadata.managedFields`.
impl fmt::Display for Representation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encoding.as_str())?;
        if self.unknown.is_empty() {
            self.shape.fmt(f)
        } else {
            f.write_str(&self.unknown)
        }
    }
}

/// What follows the encoding in [`Representation`]'s text.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => Ok(()),
            Self::Metadata(version) => write!(f, ";metadata/{}", version.as_str()),
            Self::Table(table) => {
                write!(f, ";table/{}", table.version.as_str())?;
                match table.rows {
                    Rows::Metadata => Ok(()),
                    Rows::None => f.write_str(";None"),
                    Rows::Object => f.write_str(";Object"),
                }
            }
        }
    }
}
