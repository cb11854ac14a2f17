//! The key of a view within its principal: which collection, selected how, in which form.
//!
//! Its text is stable and one to one: it names the view's log on disk, so its form may never change. A selector
//! can be long: a store that names files after it has to shorten it itself.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::selector::{canonical_fields, canonical_labels};

/// What stands in the text as it is; everything else, `+` and `=` included, is percent-encoded.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// One exact collection in one form (wire contract 1.3). All texts are decoded, and empty where unset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewKey {
    /// The API group; empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The resource, plural.
    pub resource: String,
    /// The namespace of the path, `None` cluster-wide.
    pub namespace: Option<String>,
    /// `labelSelector`, canonical.
    pub label_selector: String,
    /// `fieldSelector`, canonical.
    pub field_selector: String,
    /// `shardSelector`.
    pub shard_selector: String,
    /// Encoding and shape of the answers, as the caller writes them; with a `=` if and only if a parameter was not known.
    pub representation: String,
}

impl ViewKey {
    /// The same key with its selectors in canonical form, as every key of a view has to be.
    pub fn canonical(self) -> Self {
        Self {
            label_selector: canonical_labels(&self.label_selector),
            field_selector: canonical_fields(&self.field_selector),
            ..self
        }
    }

    /// The same collection, in no form in particular.
    pub fn formless(&self) -> Self {
        Self {
            representation: String::new(),
            ..self.clone()
        }
    }

    /// Whether it selects nothing out of its scope: all objects are in it.
    pub fn is_unselected(&self) -> bool {
        self.label_selector.is_empty() && self.field_selector.is_empty() && self.shard_selector.is_empty()
    }

    /// Whether there is no object in its scope that it lacks.
    pub fn is_complete(&self) -> bool {
        self.is_unselected() && self.is_understood()
    }

    /// Whether all that was asked for is known. What an unknown parameter did to a collection is not: nothing follows from
    /// such a view but what was asked for in the same way.
    pub fn is_understood(&self) -> bool {
        !self.representation.contains('=')
    }

    /// The path of an object of its collection; `item` is `namespace/name`, or `name`.
    pub fn path_of(&self, item: &str) -> String {
        let api = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match item.split_once('/') {
            Some((namespace, name)) => format!("{api}/namespaces/{namespace}/{}/{name}", self.resource),
            None => format!("{api}/{}/{item}", self.resource),
        }
    }

    /// The text: eight fields joined by `+`; a namespace begins with `=`.
    pub fn to_text(&self) -> String {
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let namespace = self.namespace.as_deref().map(|name| format!("={}", escape(name)));
        [
            escape(&self.group),
            escape(&self.version),
            escape(&self.resource),
            namespace.unwrap_or_default(),
            escape(&self.label_selector),
            escape(&self.field_selector),
            escape(&self.shard_selector),
            escape(&self.representation),
        ]
        .join("+")
    }

    /// Reads a text; `None` for one that [`ViewKey::to_text`] does not write.
    pub fn parse(text: &str) -> Option<Self> {
        let unescape = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let parts: Vec<&str> = text.split('+').collect();
        let [group, version, resource, namespace, labels, fields, shard, form] = parts.as_slice() else {
            return None;
        };
        let namespace = match namespace.strip_prefix('=') {
            Some(name) => Some(unescape(name)?),
            None => namespace.is_empty().then_some(None)?,
        };
        let key = Self {
            group: unescape(group)?,
            version: unescape(version)?,
            resource: unescape(resource)?,
            namespace,
            label_selector: unescape(labels)?,
            field_selector: unescape(fields)?,
            shard_selector: unescape(shard)?,
            representation: unescape(form)?,
        };
        // Two texts never name one view.
        (key.to_text() == text).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pods() -> ViewKey {
        ViewKey {
            group: String::new(),
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            namespace: Some("kube-system".to_owned()),
            label_selector: "app in (a,b)".to_owned(),
            field_selector: "spec.nodeName=n".to_owned(),
            shard_selector: String::new(),
            representation: "json".to_owned(),
        }
    }

    /// Logs on disk are found by this text.
    #[test]
    fn the_text_of_a_key_never_changes() {
        let text = "+v1+pods+=kube-system+app%20in%20%28a%2Cb%29+spec.nodeName%3Dn++json";
        assert_eq!(pods().to_text(), text);
        assert_eq!(ViewKey::parse(text), Some(pods()));
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in [
            "",
            "+v1+pods",
            "+v1+pods++++",
            "+v1+pods++++++",
            "+v1+%70ods+++++json",
            "+v1+pods+x++++json",
            "+v1+pods+++%ff++json",
            "+v1+pods+++a=b++json",
            "+v1+pods+++%3d++json",
        ] {
            assert_eq!(ViewKey::parse(text), None, "{text}");
        }
        assert!(ViewKey::parse("+v1+pods+++++json").is_some());
    }

    #[test]
    fn spellings_of_one_selection_are_one_key() {
        let other = ViewKey {
            label_selector: "app  in (b, a)".to_owned(),
            field_selector: "spec.nodeName==n".to_owned(),
            ..pods()
        };
        assert_eq!(other.canonical(), pods());
        let invalid = ViewKey {
            label_selector: "a b".to_owned(),
            ..pods()
        };
        assert_eq!(invalid.clone().canonical(), invalid);
    }

    #[test]
    fn an_unknown_parameter_shows_in_the_representation() {
        for (representation, is_understood) in [
            ("json", true),
            ("json;metadata/v1", true),
            ("json;drop=x", false),
            ("json?shape=x", false),
        ] {
            let key = ViewKey {
                representation: representation.to_owned(),
                ..pods()
            };
            assert_eq!(key.is_understood(), is_understood, "{representation}");
            assert_eq!(ViewKey::parse(&key.to_text()), Some(key));
        }
    }

    proptest! {
        #[test]
        fn every_key_is_found_again(
            parts in prop::array::uniform7("[a+=%é/ ]{0,4}"), namespace in prop::option::of("[a+=%]{0,3}"),
        ) {
            let [group, version, resource, label_selector, field_selector, shard_selector, representation] =
                parts;
            let key = ViewKey {
                group, version, resource, namespace, label_selector, field_selector, shard_selector,
                representation,
            };
            prop_assert_eq!(ViewKey::parse(&key.to_text()), Some(key));
        }
    }
}
