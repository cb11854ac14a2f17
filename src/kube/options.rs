//! Query parameters of reads: ListOptions as kube-apiserver decodes them.
//!
//! Source: wire contract 1.3 (`apimachinery/pkg/apis/meta/v1/types.go`, `pkg/runtime/conversion.go`). The first
//! value of a repeated parameter wins. Booleans: absent, `0` and `false` are false, all else is true.

use std::borrow::Cow;

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
    /// `includeObject` of a Table; empty when absent.
    pub include_object: String,
    /// Whether a number did not parse: kube-apiserver then answers 400 and derives no name.
    pub malformed: bool,
    /// Whether there are parameters that this type does not know: such a request is not cached.
    pub has_unknown: bool,
}

impl ListOptions {
    /// Decodes a raw query.
    pub fn parse(query: Option<&str>) -> Self {
        let mut options = Self::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if seen.contains(&name) {
                continue;
            }
            options.set(&name, &value);
            seen.push(name);
        }
        options
    }

    fn set(&mut self, name: &str, value: &str) {
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
            "includeObject" => self.include_object = value.to_owned(),
            "timeout" | "pretty" => {}
            _ => self.has_unknown = true,
        }
    }

    fn number(&mut self, value: &str) -> Option<u64> {
        let parsed = value.parse().ok();
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

fn truth(value: &str) -> bool {
    !(value == "0" || value.eq_ignore_ascii_case("false"))
}

#[cfg(test)]
mod tests {
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
        assert!(!options.has_unknown && !options.malformed);
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
        assert!(ListOptions::parse(Some("foo=1")).has_unknown);
        assert!(ListOptions::parse(Some("timeoutSeconds=x")).malformed);
        assert!(!ListOptions::parse(None).has_unknown);
    }

    #[test]
    fn a_plain_watch_at_a_version_does_not_start_with_state() {
        assert!(!ListOptions::parse(Some("watch=1&resourceVersion=7")).starts_with_state());
        assert!(ListOptions::parse(Some("watch=1&resourceVersion=0")).starts_with_state());
        assert!(!ListOptions::parse(Some("watch=1&sendInitialEvents=false")).starts_with_state());
    }
}
