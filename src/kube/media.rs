//! Media types and the negotiated form of an answer (wire contract, section 2).
//!
//! Source of the rules: `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` and `munnerz/goautoneg`.

use std::fmt;

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
    /// `Table` of the given `meta.k8s.io` version.
    Table(MetaVersion),
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

/// The negotiated form of an answer: encoding and shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Representation {
    /// How it is encoded.
    pub encoding: Encoding,
    /// What it holds.
    pub shape: Shape,
}

impl Representation {
    /// The whole object in the given encoding.
    pub fn full(encoding: Encoding) -> Self {
        Self {
            encoding,
            shape: Shape::Full,
        }
    }

    /// Every representation that can be told apart.
    pub fn all() -> impl Iterator<Item = Self> {
        use MetaVersion::{V1, V1Beta1};
        let shapes = [
            Shape::Full,
            Shape::Metadata(V1),
            Shape::Metadata(V1Beta1),
            Shape::Table(V1),
            Shape::Table(V1Beta1),
        ];
        let encodings = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf, Encoding::Cbor];
        encodings.into_iter().flat_map(move |encoding| {
            shapes
                .clone()
                .into_iter()
                .map(move |shape| Self { encoding, shape })
        })
    }
}

/// The stable text that keys on disk use: `json`, `protobuf;metadata/v1`, `json;table/v1`.
impl fmt::Display for Representation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encoding.as_str())?;
        match &self.shape {
            Shape::Full => Ok(()),
            Shape::Metadata(version) => write!(f, ";metadata/{}", version.as_str()),
            Shape::Table(version) => write!(f, ";table/{}", version.as_str()),
        }
    }
}

/// One clause of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause<'a> {
    kind: &'a str,
    subkind: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    /// The media type without parameters, `*` standing for any.
    pub fn matches(&self, media_type: &str) -> bool {
        let (kind, subkind) = media_type.split_once('/').unwrap_or((media_type, ""));
        (self.kind == "*" && self.subkind == "*")
            || (self.kind == kind && (self.subkind == subkind || self.subkind == "*"))
    }

    /// The media type, unless it is a wildcard.
    pub fn media_type(&self) -> Option<String> {
        (self.kind != "*" && self.subkind != "*").then(|| format!("{}/{}", self.kind, self.subkind))
    }

    /// A parameter's value; empty when absent.
    pub fn param(&self, name: &str) -> &'a str {
        self.params
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }

    fn shape(&self, encoding: Encoding) -> Option<Shape> {
        if !matches!(self.param("stream"), "" | "watch") {
            return None;
        }
        let kind = self.param("as");
        if kind.is_empty() {
            let plain = self.param("g").is_empty() && self.param("v").is_empty();
            return plain.then_some(Shape::Full);
        }
        let version = match (self.param("g"), self.param("v")) {
            ("meta.k8s.io", "v1") => MetaVersion::V1,
            ("meta.k8s.io", "v1beta1") => MetaVersion::V1Beta1,
            _ => return None,
        };
        match kind {
            "Table" => matches!(encoding, Encoding::Json | Encoding::Yaml).then_some(Shape::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Metadata(version)),
            _ => None,
        }
    }
}

/// The clauses of an `Accept` header in the order in which the server tries them: higher quality first, then
/// those without wildcard, else as written.
pub fn accept_clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(parse_clause).collect();
    clauses.sort_by(|a, b| {
        let wild = |c: &Clause<'_>| c.kind == "*" || c.subkind == "*";
        b.quality
            .total_cmp(&a.quality)
            .then_with(|| wild(a).cmp(&wild(b)))
    });
    clauses
}

fn parse_clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';');
    let media = parts.next()?.trim();
    let (kind, subkind) = match media.split_once('/') {
        Some((kind, subkind)) => (kind.trim(), subkind.trim()),
        None if media == "*" => ("*", "*"),
        None => return None,
    };
    let mut quality = 1.0;
    let mut params = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key.trim() {
            "q" => quality = value.trim().parse().unwrap_or(1.0),
            key => params.push((key, value.trim())),
        }
    }
    Some(Clause {
        kind,
        subkind,
        quality,
        params,
    })
}

/// What a server can answer with, in its order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Built-in resources of 1.36 (CBOR gate off).
    BuiltIn,
    /// Custom resources: protobuf for `PartialObjectMetadata` alone.
    Custom,
    /// Everything that edgehold can hold: built-in resources with the CBOR gate on.
    All,
}

impl Offer {
    fn encodings(self) -> &'static [Encoding] {
        match self {
            Self::BuiltIn | Self::Custom => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf],
            Self::All => &[Encoding::Json, Encoding::Yaml, Encoding::Protobuf, Encoding::Cbor],
        }
    }

    fn has(self, representation: &Representation) -> bool {
        let Representation { encoding, shape } = representation;
        !(self == Self::Custom && *encoding == Encoding::Protobuf && *shape == Shape::Full)
    }
}

/// What the server answers to this `Accept`; `None` means 406.
///
/// `accept` is the first `Accept` header line; an absent one means the first supported encoding.
pub fn negotiate(accept: Option<&str>, offer: Offer) -> Option<Representation> {
    acceptable(accept, offer).into_iter().next()
}

/// The representations that this `Accept` allows, best first, each once; a wildcard stands for the one that the
/// server would pick.
pub fn acceptable(accept: Option<&str>, offer: Offer) -> Vec<Representation> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return vec![Representation::full(Encoding::Json)];
    };
    let mut found = Vec::new();
    for clause in accept_clauses(accept) {
        let pick = offer
            .encodings()
            .iter()
            .copied()
            .filter(|encoding| clause.matches(encoding.media_type()))
            .filter_map(|encoding| {
                Some(Representation {
                    encoding,
                    shape: clause.shape(encoding)?,
                })
            })
            .find(|representation| offer.has(representation));
        if let Some(representation) = pick.filter(|r| !found.contains(r)) {
            found.push(representation);
        }
    }
    found
}

/// The shape of a response in `encoding` to this `Accept`: that of the first clause the encoding satisfies.
///
/// Resource answers do not say their shape in `Content-Type` (wire contract 2.2).
pub fn answered_shape(accept: Option<&str>, encoding: Encoding) -> Option<Shape> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return Some(Shape::Full);
    };
    accept_clauses(accept)
        .iter()
        .filter(|clause| clause.matches(encoding.media_type()))
        .find_map(|clause| clause.shape(encoding))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

    fn show(accept: &str, offer: Offer) -> String {
        let accept = (!accept.is_empty()).then_some(accept);
        negotiate(accept, offer).map_or("406".into(), |r| r.to_string())
    }

    #[test]
    fn vectors_of_the_real_negotiator() {
        for (accept, built_in, custom, cbor) in [
            ("", "json", "json", "json"),
            ("*/*", "json", "json", "json"),
            ("application/*", "json", "json", "json"),
            ("application/json, */*", "json", "json", "json"),
            (
                "application/vnd.kubernetes.protobuf",
                "protobuf",
                "406",
                "protobuf",
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                "protobuf",
                "json",
                "protobuf",
            ),
            (
                "application/vnd.kubernetes.protobuf, */*",
                "protobuf",
                "json",
                "protobuf",
            ),
            (
                "application/json;q=0.9,application/cbor;q=1",
                "json",
                "json",
                "cbor",
            ),
            ("application/cbor", "406", "406", "cbor"),
            ("application/cbor-seq", "406", "406", "406"),
            ("application/json;stream=watch", "json", "json", "json"),
            ("application/json;stream=foo", "406", "406", "406"),
            ("text/html", "406", "406", "406"),
            ("APPLICATION/JSON", "406", "406", "406"),
            ("application/yaml", "yaml", "yaml", "yaml"),
            (TABLE, "json;table/v1", "json;table/v1", "json;table/v1"),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                "json",
                "json",
                "json",
            ),
            (
                METADATA,
                "protobuf;metadata/v1",
                "protobuf;metadata/v1",
                "protobuf;metadata/v1",
            ),
        ] {
            assert_eq!(show(accept, Offer::BuiltIn), built_in, "built-in: {accept}");
            assert_eq!(show(accept, Offer::Custom), custom, "custom: {accept}");
            assert_eq!(show(accept, Offer::All), cbor, "cbor: {accept}");
        }
    }

    #[test]
    fn kubectl_also_takes_plain_json() {
        let all: Vec<String> = acceptable(Some(TABLE), Offer::All)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(all, ["json;table/v1", "json;table/v1beta1", "json"]);
    }

    #[test]
    fn a_charset_is_ignored_and_content_types_are_read() {
        assert_eq!(show("application/json;charset=utf-8", Offer::BuiltIn), "json");
        assert_eq!(
            Encoding::of_content_type("application/json; charset=utf-8"),
            Some(Encoding::Json)
        );
        assert_eq!(
            Encoding::of_content_type("application/vnd.kubernetes.protobuf;stream=watch"),
            Some(Encoding::Protobuf)
        );
        assert_eq!(Encoding::of_content_type("text/html"), None);
    }

    #[test]
    fn the_shape_of_an_answer_follows_from_accept_and_its_encoding() {
        let shape = |accept, encoding| answered_shape(Some(accept), encoding);
        assert_eq!(shape(TABLE, Encoding::Json), Some(Shape::Table(MetaVersion::V1)));
        assert_eq!(
            shape(METADATA, Encoding::Protobuf),
            Some(Shape::Metadata(MetaVersion::V1))
        );
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf, */*", Encoding::Json),
            Some(Shape::Full)
        );
        assert_eq!(shape("application/vnd.kubernetes.protobuf", Encoding::Json), None);
        assert_eq!(answered_shape(None, Encoding::Json), Some(Shape::Full));
    }

    proptest! {
        #[test]
        fn any_accept_header_is_read(accept in ".{0,80}") {
            let all = acceptable(Some(&accept), Offer::All);
            prop_assert_eq!(all.first().cloned(), negotiate(Some(&accept), Offer::All));
        }
    }
}
