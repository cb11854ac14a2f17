//! Query parameters as kube-apiserver decodes ListOptions.

/// Decoded query; for a repeated parameter the first value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Self {
        Self(
            form_urlencoded::parse(raw.as_bytes())
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The value, with absent read as empty.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// Absent, `0` and `false` are false, everything else (`watch=no`, `watch=`) is true.
    pub(crate) fn truthy(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// X of a field selector that requires exactly `metadata.name=X`, if X can be a path segment.
    pub(crate) fn selected_name(&self) -> Option<String> {
        let selector = crate::selector::Fields::parse(self.text("fieldSelector")).ok()?;
        selector.exact("metadata.name").filter(|n| legal_segment(n))
    }

    /// The pairs in sorted order, without those named; for comparing two requests.
    pub(crate) fn sorted_without(&self, dropped: &[&str]) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = self
            .0
            .iter()
            .filter(|(k, _)| !dropped.contains(&k.as_str()))
            .cloned()
            .collect();
        pairs.sort();
        pairs
    }
}

fn legal_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}
