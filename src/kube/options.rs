//! Query parameters of reads: ListOptions as kube-apiserver decodes them.
//!
//! Source: wire contract 1.3 (`apimachinery/pkg/apis/meta/v1/types.go`, `pkg/runtime/conversion.go`). The first
//! value of a repeated parameter wins. Booleans: absent, `0` and `false` are false, all else is true.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::media::Rows;

/// Decoded list options; text where the proxy only compares or forwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `watch`.
    pub watch: bool,
    /// `labelSelector`, as sent.
    pub label_selector: String,
    /// `fieldSelector`, as sent.
    pub field_selector: String,
    /// `shardSelector`, as sent (alpha in 1.36).
    pub shard_selector: String,
    /// `resourceVersion`; `None` when absent or empty, which mean the same.
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`; empty when absent.
    pub resource_version_match: String,
    /// `allowWatchBookmarks`.
    pub allow_watch_bookmarks: bool,
    /// `sendInitialEvents`, when given.
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds`, when given.
    pub timeout_seconds: Option<u64>,
    /// `limit`; 0 for none.
    pub limit: u64,
    /// `continue`; empty when absent.
    pub continue_token: String,
    /// `includeObject` of a Table.
    pub include_object: Rows,
    /// Whether a number did not parse (kube-apiserver then answers 400 and derives no name), or the query is not clear.
    pub malformed: bool,
    /// The parameters that this type does not know (or whose value it does not), in canonical form: by name, of one
    /// name in the order in which they came. What they do to the answer is not known, so they are part of its key.
    pub unknown: String,
}

impl ListOptions {
    /// Decodes a raw query.
    pub fn parse(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default();
        let mut options = Self {
            malformed: !is_clear(query),
            ..Self::default()
        };
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                continue;
            }
            if options.set(&name, &value) {
                seen.push(name);
            } else {
                unknown.push((name, value));
            }
        }
        options.unknown = canonical_query(unknown);
        options
    }

    /// Takes a parameter; gives whether it is known.
    fn set(&mut self, name: &str, value: &str) -> bool {
        match name {
            "watch" => self.watch = truth(value),
            "labelSelector" => self.label_selector = value.to_owned(),
            "fieldSelector" => self.field_selector = value.to_owned(),
            "shardSelector" => self.shard_selector = value.to_owned(),
            "resourceVersion" => self.resource_version = (!value.is_empty()).then(|| value.to_owned()),
            "resourceVersionMatch" => self.resource_version_match = value.to_owned(),
            "allowWatchBookmarks" => self.allow_watch_bookmarks = truth(value),
            "sendInitialEvents" => self.send_initial_events = Some(truth(value)),
            "timeoutSeconds" => self.timeout_seconds = self.number(value),
            "limit" => self.limit = self.number(value).unwrap_or_default(),
            "continue" => self.continue_token = value.to_owned(),
            "includeObject" => match Rows::parse(value) {
                Some(rows) => self.include_object = rows,
                None => return false,
            },
            "timeout" | "pretty" => {}
            _ => return false,
        }
        true
    }

    fn number(&mut self, value: &str) -> Option<u64> {
        // An int64 upstream.
        let parsed = value
            .parse::<i64>()
            .ok()
            .and_then(|number| u64::try_from(number).ok());
        self.malformed |= parsed.is_none();
        parsed
    }

    /// The object name that the field selector requires exactly (`metadata.name=X`), when X is a legal path
    /// segment.
    pub fn required_name(&self) -> Option<&str> {
        if self.malformed {
            return None;
        }
        self.field_selector.split(',').find_map(|term| {
            let (field, value) = term.split_once('=')?;
            let value = value.strip_prefix('=').unwrap_or(value);
            let legal =
                !value.is_empty() && !value.contains(['/', '%', '\\']) && value != "." && value != "..";
            (field.trim() == "metadata.name" && legal).then_some(value)
        })
    }

    /// Whether a watch starts with the state of the collection (given, or defaulted by the server for a
    /// resourceVersion of "" or "0": wire contract 1.3).
    pub fn starts_with_state(&self) -> bool {
        self.send_initial_events.unwrap_or({
            matches!(self.resource_version.as_deref(), None | Some("0"))
                && self.resource_version_match.is_empty()
        })
    }
}

/// Whether every server reads a query in the same way: Go drops a parameter with a `;` or a broken escape, older versions
/// split it there, and what is no UTF-8 is not told apart here.
pub fn is_clear(query: &str) -> bool {
    let mut rest = query.split('%').skip(1);
    let escapes = rest.all(
        |after| matches!(after.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()),
    );
    escapes && !query.contains(';') && percent_decode_str(query).decode_utf8().is_ok()
}

/// The text of parameters that is the same for all spellings: by name, of one name in the order in which they came.
pub fn canonical_query<'a>(mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>) -> String {
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

fn truth(value: &str) -> bool {
    !(value == "0" || value.eq_ignore_ascii_case("false"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_real_watch_list_request_decodes() {
        let options = ListOptions::parse(Some(
            "allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dedge-1&resourceVersionMatch=NotOlderThan\
             &sendInitialEvents=true&timeout=8m16s&timeoutSeconds=336&watch=true",
        ));
        assert!(options.watch && options.allow_watch_bookmarks && options.starts_with_state());
        assert_eq!(options.field_selector, "spec.nodeName=edge-1");
        assert_eq!(options.timeout_seconds, Some(336));
        assert!(options.unknown.is_empty() && !options.malformed);
        assert_eq!(options.required_name(), None);
    }

    #[test]
    fn first_value_wins_and_empty_booleans_are_true() {
        let options = ListOptions::parse(Some("limit=5&limit=7&watch=&resourceVersion="));
        assert_eq!(
            (options.limit, options.watch, options.resource_version),
            (5, true, None)
        );
    }

    #[test]
    fn unknown_parameters_and_bad_numbers_are_seen() {
        assert_eq!(ListOptions::parse(Some("watch=1&foo=1")).unknown, "foo=1");
        assert_eq!(
            ListOptions::parse(Some("includeObject=All")).unknown,
            "includeObject=All"
        );
        assert!(ListOptions::parse(Some("timeoutSeconds=x")).malformed);
        assert_eq!(ListOptions::parse(None).unknown, "");
    }

    #[test]
    fn a_plain_watch_at_a_version_does_not_start_with_state() {
        assert!(!ListOptions::parse(Some("watch=1&resourceVersion=7")).starts_with_state());
        assert!(ListOptions::parse(Some("watch=1&resourceVersion=0")).starts_with_state());
        assert!(!ListOptions::parse(Some("watch=1&sendInitialEvents=false")).starts_with_state());
    }

    #[test]
    fn a_query_that_servers_read_in_different_ways_is_malformed() {
        for query in [
            "timeoutSeconds=9223372036854775808",
            "limit=-1",
            "labelSelector=a;b",
            "limit=1;watch=1",
            "foo=%zz",
            "foo=%1",
            "foo=%",
            "foo=%ff",
        ] {
            assert!(ListOptions::parse(Some(query)).malformed, "{query}");
        }
        for query in ["labelSelector=a%3Bb", "foo=%C3%A9", "foo=a+b", "", "&&", "foo"] {
            assert!(!ListOptions::parse(Some(query)).malformed, "{query}");
        }
    }

    const NAMES: [&str; 4] = ["drop", "sh=ape", "x y", "zone"];

    fn encoded(pairs: &[(&str, &String)], known: &[u8]) -> String {
        let known = known
            .iter()
            .map(|n| ["watch=1", "limit=5", "timeout=7s", "pretty=true"][usize::from(*n) % 4].to_owned());
        let unknown = pairs.iter().map(|(name, value)| {
            form_urlencoded::Serializer::new(String::new())
                .append_pair(name, value)
                .finish()
        });
        known.chain(unknown).collect::<Vec<_>>().join("&")
    }

    proptest! {
        /// Of several parameters, each name once here, neither the order nor the known ones among them matter.
        #[test]
        fn spellings_of_one_query_are_one_text_and_others_are_not(
            one in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), "[a=&;% é]{0,2}", 0..4),
            other in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), "[a=&;% é]{0,2}", 0..4),
            known in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let text = |map: &BTreeMap<&'static str, String>, known: &[u8]| {
                let mut pairs: Vec<(&str, &String)> = map.iter().map(|(name, value)| (*name, value)).collect();
                pairs.reverse();
                let options = ListOptions::parse(Some(&encoded(&pairs, known)));
                prop_assert!(!options.malformed);
                let sorted: Vec<(&str, &String)> = map.iter().map(|(name, value)| (*name, value)).collect();
                prop_assert_eq!(&options.unknown, &ListOptions::parse(Some(&encoded(&sorted, &[]))).unknown);
                Ok(options.unknown)
            };
            prop_assert_eq!(text(&one, &known)? == text(&other, &[])?, one == other);
        }

        #[test]
        fn any_query_is_read(query in ".{0,80}") {
            let options = ListOptions::parse(Some(&query));
            prop_assert_eq!(ListOptions::parse(Some(&options.unknown)).unknown, options.unknown);
        }
    }
}
