//! Which form of an answer a request gets, from its `Accept` header alone.
//!
//! Mirrors `NegotiateOutputMediaType`: clauses by descending q, those whose parameters are not allowed are skipped.

/// Encoding on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Protobuf,
}

/// What the objects are turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Full,
    /// `PartialObjectMetadata`, or its list.
    Partial(Meta),
    Table(Meta),
}

/// Version of `meta.k8s.io` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    V1,
    V1beta1,
}

impl Meta {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub format: Format,
    pub shape: Shape,
    pub pretty: bool,
}

/// What an endpoint can give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Plain objects can be had as protobuf (false for custom resources).
    pub protobuf: bool,
    pub single: bool,
}

impl Negotiated {
    pub(crate) const JSON: Self = Self {
        format: Format::Json,
        shape: Shape::Full,
        pretty: false,
    };

    pub(crate) fn content_type(&self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    pub(crate) fn watch_content_type(&self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }
}

/// The best acceptable form, or `None` for 406.
pub(crate) fn negotiate(accept: &str, offer: Offer) -> Option<Negotiated> {
    clauses(accept)
        .into_iter()
        .find_map(|clause| clause.offered(offer))
}

/// The form of an error: transformations do not count, and there is always one.
pub(crate) fn for_error(accept: &str) -> Negotiated {
    let plain = clauses(accept)
        .into_iter()
        .filter(|c| c.parameters.iter().all(|(k, _)| *k != "as"));
    let offer = Offer {
        protobuf: true,
        single: true,
    };
    let found = plain.filter_map(|c| c.offered(offer)).next();
    found.unwrap_or(Negotiated {
        pretty: true,
        ..Negotiated::JSON
    })
}

struct Clause<'a> {
    media: &'a str,
    q: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let parse = |text| {
        let mut pieces = str::split(text, ';').map(str::trim);
        let media = pieces.next().unwrap_or_default();
        let mut parameters: Vec<_> = pieces
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
            .collect();
        let q = parameters
            .iter()
            .find(|(k, _)| *k == "q")
            .and_then(|(_, v)| v.parse().ok())
            .unwrap_or(1.0);
        parameters.retain(|(k, _)| *k != "q");
        Clause { media, q, parameters }
    };
    let mut all: Vec<Clause<'_>> = accept.split(',').map(parse).collect();
    let wild = |c: &Clause<'_>| usize::from(c.media.contains('*'));
    all.sort_by(|a, b| b.q.total_cmp(&a.q).then(wild(a).cmp(&wild(b))));
    all
}

impl Clause<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(k, _)| *k == name)
            .map_or("", |(_, v)| v)
    }

    fn offered(&self, offer: Offer) -> Option<Negotiated> {
        let format = match self.media {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => return None,
        };
        if !matches!(self.parameter("stream"), "" | "watch") {
            return None;
        }
        let shape = self.shape(format, offer)?;
        if format == Format::Protobuf && shape == Shape::Full && !offer.protobuf {
            return None;
        }
        Some(Negotiated {
            format,
            shape,
            pretty: matches!(self.parameter("pretty"), "1" | "true"),
        })
    }

    fn shape(&self, format: Format, offer: Offer) -> Option<Shape> {
        let kind = self.parameter("as");
        if kind.is_empty() {
            return Some(Shape::Full);
        }
        let version = match (self.parameter("g"), self.parameter("v")) {
            ("meta.k8s.io", "v1") => Meta::V1,
            ("meta.k8s.io", "v1beta1") => Meta::V1beta1,
            _ => return None,
        };
        match kind {
            "Table" if format == Format::Json => Some(Shape::Table(version)),
            "PartialObjectMetadata" if offer.single => Some(Shape::Partial(version)),
            "PartialObjectMetadataList" if !offer.single => Some(Shape::Partial(version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT_IN: Offer = Offer {
        protobuf: true,
        single: false,
    };
    const CRD: Offer = Offer {
        protobuf: false,
        single: false,
    };

    fn word(accept: &str, offer: Offer) -> String {
        negotiate(accept, offer).map_or("406".into(), |n| match (n.format, n.shape) {
            (Format::Json, Shape::Full) => "json".into(),
            (Format::Protobuf, Shape::Full) => "protobuf".into(),
            (format, shape) => format!("{format:?}+{shape:?}"),
        })
    }

    #[test]
    fn the_vectors_of_the_real_negotiator_hold() {
        const PB: &str = "application/vnd.kubernetes.protobuf";
        for (accept, built_in, crd) in [
            ("", "json", "json"),
            ("*/*", "json", "json"),
            ("application/*", "json", "json"),
            ("application/json, */*", "json", "json"),
            (PB, "protobuf", "406"),
            (&format!("{PB},application/json"), "protobuf", "json"),
            (&format!("{PB}, */*"), "protobuf", "json"),
            ("application/json;q=0.9,application/cbor;q=1", "json", "json"),
            ("application/cbor", "406", "406"),
            ("application/json;stream=watch", "json", "json"),
            ("application/json;stream=foo", "406", "406"),
            ("text/html", "406", "406"),
            ("APPLICATION/JSON", "406", "406"),
            (
                &format!("{PB};as=Table;v=v1;g=meta.k8s.io,application/json"),
                "json",
                "json",
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                "Json+Table(V1)",
                "Json+Table(V1)",
            ),
            (
                &format!("{PB};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"),
                "Protobuf+Partial(V1)",
                "Protobuf+Partial(V1)",
            ),
            (
                &format!("{PB};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
                "406",
                "406",
            ),
        ] {
            assert_eq!(word(accept, BUILT_IN), built_in, "{accept}");
            assert_eq!(word(accept, CRD), crd, "{accept}");
        }
    }

    #[test]
    fn an_error_ignores_transformations() {
        assert_eq!(
            for_error("application/vnd.kubernetes.protobuf").format,
            Format::Protobuf
        );
        assert!(for_error("application/json;as=Table;v=v1;g=meta.k8s.io").pretty);
        assert!(!for_error("application/json").pretty);
    }
}
