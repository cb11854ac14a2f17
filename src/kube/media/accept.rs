//! `Accept`: its clauses, what a server answers to them, and which of them an answer stands for.
//!
//! Source of the rules: `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` and `munnerz/goautoneg`.
//!
//! Servers ignore parameters that they do not know, so what a parameter does is known only where it is known here. A
//! clause with another one may be taken as if the parameter were not there, may be taken and change the answer, or may
//! be skipped for the next clause, and a resource answer does not say which (wire contract 2.2). So its answer is kept
//! apart under all clauses that may have led to it: a representation that equals no other.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Encoding, MetaVersion, Representation, Rows, Shape, Table};

/// What stands in a canonical text as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Parameters that change nothing about what a resource answer holds.
const HARMLESS: [&str; 4] = ["charset", "export", "pretty", "profile"];

/// One clause of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause<'a> {
    kind: &'a str,
    subkind: &'a str,
    quality: f32,
    /// Each name once, none without a value.
    params: Vec<(&'a str, &'a str)>,
}

/// What an answer to a clause is in one encoding.
#[derive(PartialEq)]
struct Form<'a> {
    shape: Shape,
    /// Parameters that are not known, or have a value that is not, by name.
    unknown: Vec<(&'a str, &'a str)>,
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

    /// The canonical text of the parameters that are in none of the lists: `;name=value` each, by name.
    pub fn other_params(&self, known: &[&str]) -> String {
        canonical(
            self.params
                .iter()
                .copied()
                .filter(|(name, _)| !known.contains(name) && !HARMLESS.contains(name)),
        )
    }

    /// What the answer is if the server takes this clause with this encoding; `None` if no server does.
    fn form(&self, encoding: Encoding, rows: Rows) -> Option<Form<'a>> {
        let is_known = |name: &str, value: &str| {
            HARMLESS.contains(&name)
                || matches!(
                    (name, value),
                    ("as" | "g" | "v", _) | ("stream", "watch") | ("sv", "v1")
                )
        };
        let mut unknown: Vec<_> = self
            .params
            .iter()
            .copied()
            .filter(|(name, value)| !is_known(name, value))
            .collect();
        let version = match (self.param("g"), self.param("v")) {
            ("meta.k8s.io", "v1") => Some(MetaVersion::V1),
            ("meta.k8s.io", "v1beta1") => Some(MetaVersion::V1Beta1),
            _ => None,
        };
        let shape = match (self.param("as"), version) {
            ("Table", Some(_)) if !matches!(encoding, Encoding::Json | Encoding::Yaml) => return None,
            ("Table", Some(version)) => Shape::Table(Table { version, rows }),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", Some(version)) => {
                Shape::Metadata(version)
            }
            _ => {
                // A transformation that is not known, or none.
                unknown.extend(
                    self.params
                        .iter()
                        .copied()
                        .filter(|(name, _)| matches!(*name, "as" | "g" | "v")),
                );
                Shape::Full
            }
        };
        unknown.sort_unstable();
        Some(Form { shape, unknown })
    }
}

impl Form<'_> {
    fn is_known(&self) -> bool {
        self.unknown.is_empty()
    }

    fn to_text(&self) -> String {
        format!("{}{}", self.shape, canonical(self.unknown.iter().copied()))
    }
}

fn canonical<'a>(params: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let escape = |text| utf8_percent_encode(text, ESCAPED);
    let mut params: Vec<_> = params
        .map(|(name, value)| format!(";{}={}", escape(name), escape(value)))
        .collect();
    params.sort_unstable();
    params.concat()
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

/// As goautoneg reads it: only blanks are trimmed, a parameter without value or with two `=` is none, and the last of
/// several counts.
fn parse_clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';');
    let media = trimmed(parts.next()?);
    let (kind, subkind) = match media.split_once('/') {
        Some((kind, subkind)) if !subkind.is_empty() && !subkind.contains('/') => {
            (trimmed(kind), trimmed(subkind))
        }
        None if media == "*" => ("*", "*"),
        _ => return None,
    };
    let mut quality = 1.0;
    let mut params: Vec<(&str, &str)> = Vec::new();
    for part in parts {
        let Some((key, value)) = part
            .split_once('=')
            .filter(|(_, v)| !v.is_empty() && !v.contains('='))
        else {
            continue;
        };
        let key = trimmed(key);
        if key == "q" {
            quality = value.parse().unwrap_or(0.0);
            continue;
        }
        params.retain(|(known, _)| *known != key);
        if !trimmed(value).is_empty() {
            params.push((key, trimmed(value)));
        }
    }
    Some(Clause {
        kind,
        subkind,
        quality,
        params,
    })
}
fn trimmed(text: &str) -> &str {
    text.trim_matches(' ')
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
        let Representation { encoding, shape, .. } = representation;
        !(self == Self::Custom && *encoding == Encoding::Protobuf && *shape == Shape::Full)
    }
}

/// What the server answers to this `Accept`; `None` means 406.
///
/// `accept` is the first `Accept` header line; an absent one means the first supported encoding.
pub fn negotiate(accept: Option<&str>, offer: Offer) -> Option<Representation> {
    acceptable(accept, Rows::default(), offer).into_iter().next()
}

/// The representations that this `Accept` allows, best first, each once; a wildcard stands for the one that the
/// server would pick. `rows` is the request's `includeObject`, which matters to Tables alone.
pub fn acceptable(accept: Option<&str>, rows: Rows, offer: Offer) -> Vec<Representation> {
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return vec![Representation::full(Encoding::Json)];
    };
    let clauses = accept_clauses(accept);
    let mut found = Vec::new();
    for (at, clause) in clauses.iter().enumerate() {
        let pick = offer
            .encodings()
            .iter()
            .copied()
            .filter(|encoding| {
                clause.matches(encoding.media_type()) && clause.form(*encoding, rows).is_some()
            })
            .filter_map(|encoding| answered_from(clauses.get(at..)?, rows, encoding))
            .find(|representation| offer.has(representation));
        if let Some(representation) = pick.filter(|r| !found.contains(r)) {
            found.push(representation);
        }
    }
    found
}

/// What a response in `encoding` to this `Accept` is: it may stand for the first clause that the encoding satisfies,
/// and if that has a parameter that is not known, for those behind it, up to the first that every server takes. `None`
/// if it stands for no clause.
pub fn answered(accept: Option<&str>, rows: Rows, encoding: Encoding) -> Option<Representation> {
    match accept.filter(|text| !text.trim().is_empty()) {
        None => Some(Representation::full(encoding)),
        Some(accept) => answered_from(&accept_clauses(accept), rows, encoding),
    }
}

fn answered_from(clauses: &[Clause<'_>], rows: Rows, encoding: Encoding) -> Option<Representation> {
    let media_type = encoding.media_type();
    let mut forms: Vec<Form<'_>> = Vec::new();
    for clause in clauses.iter().filter(|clause| clause.matches(media_type)) {
        // What a server made of the same parameters before, it makes of them again.
        let Some(form) = clause.form(encoding, rows).filter(|form| !forms.contains(form)) else {
            continue;
        };
        forms.push(form);
        if forms.last().is_some_and(Form::is_known) {
            break;
        }
    }
    let first = forms.first()?;
    let unknown = if first.is_known() {
        String::new()
    } else {
        let texts: Vec<String> = forms.iter().map(Form::to_text).collect();
        texts.join("|")
    };
    Some(Representation {
        encoding,
        shape: first.shape.clone(),
        unknown,
    })
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
        let all: Vec<String> = acceptable(Some(TABLE), Rows::Metadata, Offer::All)
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

    fn answer(accept: &str, encoding: Encoding) -> Option<String> {
        answered(Some(accept), Rows::Metadata, encoding).map(|r| r.to_string())
    }

    #[test]
    fn what_an_answer_is_follows_from_accept_and_its_encoding() {
        for (accept, encoding, expected) in [
            (TABLE, Encoding::Json, Some("json;table/v1")),
            (METADATA, Encoding::Protobuf, Some("protobuf;metadata/v1")),
            (
                "application/vnd.kubernetes.protobuf, */*",
                Encoding::Json,
                Some("json"),
            ),
            ("application/vnd.kubernetes.protobuf", Encoding::Json, None),
        ] {
            assert_eq!(answer(accept, encoding).as_deref(), expected, "{accept}");
        }
        assert_eq!(
            answered(None, Rows::Metadata, Encoding::Json),
            Some(Representation::full(Encoding::Json))
        );
    }

    #[test]
    fn the_rows_of_a_table_are_part_of_what_it_is() {
        let texts = [Rows::Metadata, Rows::None, Rows::Object].map(|rows| {
            let table = answered(Some(TABLE), rows, Encoding::Json).unwrap();
            assert_eq!(acceptable(Some(TABLE), rows, Offer::All)[0], table);
            assert_eq!(
                acceptable(Some(TABLE), rows, Offer::All)[2],
                Representation::full(Encoding::Json),
                "they are nothing to plain JSON"
            );
            table.to_string()
        });
        assert_eq!(
            texts,
            ["json;table/v1", "json;table/v1;None", "json;table/v1;Object"]
        );
    }

    /// Each of these is what client-go 1.38 sends with `DropManagedFields`, or what a later one might.
    #[test]
    fn a_clause_with_an_unknown_parameter_is_a_representation_of_its_own() {
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        for (accept, encoding, expected) in [
            (
                "application/json;drop=metadata.managedFields",
                Encoding::Json,
                "json;drop=metadata.managedFields",
            ),
            // A server may take the first, or ignore its parameter, or skip it: it cannot be known.
            (
                "application/json;drop=x,application/json",
                Encoding::Json,
                "json;drop=x|",
            ),
            (
                "application/json;drop=x;as=Table;v=v1;g=meta.k8s.io, application/json;drop=x, application/json",
                Encoding::Json,
                "json;table/v1;drop=x|;drop=x|",
            ),
            // The second is never reached.
            ("application/json,application/json;drop=x", Encoding::Json, "json"),
            // What the client takes in another encoding says nothing about this one.
            (
                "application/vnd.kubernetes.protobuf;drop=x, application/json",
                Encoding::Json,
                "json",
            ),
            (
                "application/vnd.kubernetes.protobuf;drop=x, */*;drop=x",
                Encoding::Json,
                "json;drop=x",
            ),
            (
                "application/vnd.kubernetes.protobuf;drop=x, */*;drop=x",
                Encoding::Protobuf,
                "protobuf;drop=x",
            ),
            // Known parameters with values that are not.
            (
                "application/json;as=Table;v=v2;g=meta.k8s.io,application/json",
                Encoding::Json,
                "json;as=Table;g=meta.k8s.io;v=v2|",
            ),
            ("application/json;stream=foo", Encoding::Json, "json;stream=foo"),
        ] {
            assert_eq!(answer(accept, encoding).as_deref(), Some(expected), "{accept}");
        }
        let table = format!("{PROTOBUF};drop=x;as=Table;v=v1;g=meta.k8s.io,application/json");
        assert_eq!(
            answer(&table, Encoding::Protobuf),
            None,
            "no server makes Tables of protobuf"
        );
    }

    #[test]
    fn who_asks_with_an_unknown_parameter_takes_what_else_he_names() {
        let all = |accept| -> Vec<String> {
            acceptable(Some(accept), Rows::Metadata, Offer::All)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            all("application/json;drop=x,application/json"),
            ["json;drop=x|", "json"]
        );
        assert_eq!(all("application/json;drop=x"), ["json;drop=x"]);
        assert_eq!(
            all("application/vnd.kubernetes.protobuf;drop=x,application/json;drop=x"),
            ["protobuf;drop=x", "json;drop=x"]
        );
    }

    /// A clause by what it means: media type, known shape, unknown parameters.
    type Meaning = (
        usize,
        usize,
        std::collections::BTreeMap<&'static str, &'static str>,
    );

    const TYPES: [&str; 3] = [
        "application/json",
        "application/vnd.kubernetes.protobuf",
        "application/cbor",
    ];
    const SHAPES: [&[&str]; 3] = [
        &[],
        &["as=PartialObjectMetadata", "g=meta.k8s.io", "v=v1"],
        &["as=PartialObjectMetadata", "g=meta.k8s.io", "v=v1beta1"],
    ];

    fn meaning() -> impl Strategy<Value = Vec<Meaning>> {
        let unknown = prop::collection::btree_map(
            prop::sample::select(vec!["drop", "keep", "as/x"]),
            prop::sample::select(vec!["a", "b", "a;b", "a b", "metadata.managedFields"]),
            0..3,
        );
        // A `;` in a value would end it.
        let unknown = unknown.prop_map(|map| {
            map.into_iter()
                .filter(|(_, value)| !value.contains(';'))
                .collect()
        });
        prop::collection::vec((0..TYPES.len(), 0..SHAPES.len(), unknown), 1..4)
    }

    /// One of the texts that mean the same; `taste` chooses.
    fn spelled(meaning: &[Meaning], taste: &[u8]) -> String {
        let mut taste = taste.iter().copied().cycle();
        let mut pick = move |n: usize| usize::from(taste.next().unwrap_or_default()) % n;
        let clause = |(kind, shape, unknown): &Meaning| {
            let mut params: Vec<String> = SHAPES[*shape].iter().map(|p| (*p).to_owned()).collect();
            params.extend(unknown.iter().map(|(name, value)| format!("{name}={value}")));
            for harmless in [
                "charset=utf-8",
                "pretty=1",
                "profile=nopeer",
                "stream=watch",
                "sv=v1",
                "drop=",
                "keep",
            ] {
                // One without value does not count, but the last of several does.
                let is_spoiler = harmless == "drop=" && unknown.contains_key("drop");
                if pick(3) == 0 && !is_spoiler {
                    params.push(harmless.to_owned());
                }
            }
            for at in 1..params.len() {
                params.swap(at, pick(at + 1));
            }
            // All have the same quality, so their order counts.
            params.push(["q=0.5", "q=0.50"][pick(2)].to_owned());
            let blank = ["", " "][pick(2)];
            format!(
                "{}{blank};{blank}{}",
                TYPES[*kind],
                params.join(&format!("{blank};{blank}"))
            )
        };
        meaning
            .iter()
            .map(clause)
            .collect::<Vec<_>>()
            .join([",", ", "][pick(2)])
    }

    proptest! {
        #[test]
        fn any_accept_header_is_read(accept in ".{0,80}") {
            let all = acceptable(Some(&accept), Rows::Metadata, Offer::All);
            prop_assert_eq!(all.first().cloned(), negotiate(Some(&accept), Offer::All));
        }

        #[test]
        fn spellings_of_one_meaning_are_one_representation(
            meaning in meaning(), one in prop::collection::vec(any::<u8>(), 8), other in prop::collection::vec(any::<u8>(), 8),
        ) {
            let (one, other) = (spelled(&meaning, &one), spelled(&meaning, &other));
            for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
                prop_assert_eq!(answer(&one, encoding), answer(&other, encoding), "{:?} {:?}", &one, &other);
            }
            let all = |accept: &str| acceptable(Some(accept), Rows::Metadata, Offer::All);
            prop_assert_eq!(all(&one), all(&other));
        }

        /// Two clauses have one text if and only if they mean the same, and only a clause of which all is known has the
        /// text of one that was known before there were others.
        #[test]
        fn other_meanings_are_other_representations(one in meaning(), other in meaning()) {
            let clause = |meaning: &Meaning| {
                answered(Some(&spelled(std::slice::from_ref(meaning), &[1])), Rows::Metadata, [Encoding::Json, Encoding::Protobuf, Encoding::Cbor][meaning.0]).unwrap()
            };
            let (a, b) = (clause(&one[0]), clause(&other[0]));
            prop_assert_eq!(a.to_string() == b.to_string(), one[0] == other[0]);
            prop_assert_eq!(a == b, one[0] == other[0]);
            prop_assert_eq!(a.to_string().contains('='), !one[0].2.is_empty());
        }

        /// Whatever a server may have made of an unknown parameter, its answer is not that of a clause without.
        #[test]
        fn an_answer_that_may_stand_for_an_unknown_parameter_is_kept_apart(meaning in meaning()) {
            let accept = spelled(&meaning, &[1]);
            for (kind, encoding) in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor].into_iter().enumerate() {
                let first = meaning.iter().find(|(other, ..)| *other == kind);
                let expected = first.map(|(_, _, unknown)| !unknown.is_empty());
                let is_unknown = answered(Some(&accept), Rows::Metadata, encoding).map(|r| !r.unknown.is_empty());
                prop_assert_eq!(is_unknown, expected);
            }
        }
    }
}
