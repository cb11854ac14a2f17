//! Label and field selectors, evaluated on JSON objects.

use serde_json::Value;

/// A selector that does not parse, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSelector(pub String);

/// Both selectors of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    pub labels: Labels,
    pub fields: Fields,
}

impl Selector {
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.0.is_empty() && self.fields.0.is_empty()
    }
}

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Labels {
    /// `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> Result<Self, BadSelector> {
        split_outside_parentheses(text)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|r| {
            let value = labels[&r.key].as_str();
            match &r.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(set) => value.is_some_and(|v| set.iter().any(|s| s == v)),
                Test::NotIn(set) => value.is_none_or(|v| set.iter().all(|s| s != v)),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut parts = Vec::new();
    let mut start = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|p| !p.is_empty());
    parts
}

fn requirement(part: &str) -> Result<Requirement, BadSelector> {
    let make = |key: &str, test| {
        let key = key.trim();
        if key.is_empty() || key.contains([' ', '(', ')', '=', '!']) {
            return Err(BadSelector(format!("unable to parse requirement: {part:?}")));
        }
        Ok(Requirement {
            key: key.to_owned(),
            test,
        })
    };
    if let Some((key, value)) = part.split_once("!=") {
        return make(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return make(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some(key) = part.strip_prefix('!') {
        return make(key, Test::Absent);
    }
    if let Some(set) = part.strip_suffix(')') {
        let (head, set) = set
            .split_once('(')
            .ok_or_else(|| BadSelector(format!("unable to parse: {part:?}")))?;
        let set = set.split(',').map(|s| s.trim().to_owned()).collect();
        let head = head.trim();
        if let Some(key) = head.strip_suffix(" notin") {
            return make(key, Test::NotIn(set));
        }
        if let Some(key) = head.strip_suffix(" in") {
            return make(key, Test::In(set));
        }
    }
    make(part, Test::Exists)
}

/// A field selector: equalities and inequalities, all of which must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, Wanted, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Equal,
    Different,
}

impl Fields {
    /// `metadata.name=x,spec.clusterIP!=None`.
    pub(crate) fn parse(text: &str) -> Result<Self, BadSelector> {
        let terms = text.split(',').filter(|t| !t.is_empty());
        let parsed = terms.map(|term| {
            let split = |sep| {
                term.split_once(sep)
                    .map(|(k, v): (&str, &str)| (k.to_owned(), v.to_owned()))
            };
            if let Some((k, v)) = split("!=") {
                Ok((k, Wanted::Different, v))
            } else if let Some((k, v)) = split("==").or_else(|| split("=")) {
                Ok((k, Wanted::Equal, v))
            } else {
                Err(BadSelector(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )))
            }
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// The value that `field` must equal, if the selector says so.
    pub(crate) fn exact(&self, field: &str) -> Option<String> {
        self.0
            .iter()
            .find(|(k, w, _)| k == field && *w == Wanted::Equal)
            .map(|(_, _, v)| v.clone())
    }

    /// The first field that `resource` cannot be selected by.
    pub(crate) fn unsupported(&self, resource: &str) -> Option<&str> {
        let known = |field: &str| {
            matches!(field, "metadata.name" | "metadata.namespace")
                || match resource {
                    "pods" => matches!(
                        field,
                        "spec.nodeName"
                            | "spec.restartPolicy"
                            | "spec.schedulerName"
                            | "spec.serviceAccountName"
                            | "spec.hostNetwork"
                            | "status.phase"
                            | "status.podIP"
                            | "status.nominatedNodeName"
                    ),
                    "services" => matches!(field, "spec.clusterIP" | "spec.type"),
                    "nodes" => field == "spec.unschedulable",
                    "namespaces" => field == "status.phase",
                    "secrets" => field == "type",
                    "certificatesigningrequests" => field == "spec.signerName",
                    "events" => {
                        field.starts_with("involvedObject.")
                            || matches!(field, "reason" | "type" | "reportingComponent")
                    }
                    _ => false,
                }
        };
        self.0.iter().map(|(k, _, _)| k.as_str()).find(|f| !known(f))
    }

    fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, wanted, value)| {
            let found = field.split('.').fold(object, |v, part| &v[part]);
            let found = match found {
                Value::String(s) => s.clone(),
                Value::Null if field.ends_with("unschedulable") || field.ends_with("hostNetwork") => {
                    "false".into()
                }
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (found == *value) == (*wanted == Wanted::Equal)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "web", "x.io/t": "1"}},
            "spec": {"nodeName": "edge-1"}})
    }

    #[test]
    fn label_requirements_are_anded_and_set_based_ones_work() {
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,x.io/t=1", true),
            ("app!=web", false),
            ("gone!=web", true),
            ("app in (db, web),x.io/t", true),
            ("app notin (db,web)", false),
            ("gone notin (a)", true),
            ("!gone", true),
            ("!app", false),
            ("app,gone", false),
        ] {
            assert_eq!(Labels::parse(text).unwrap().matches(&pod()), want, "{text}");
        }
        assert!(Labels::parse("a b c").is_err());
        assert!(Labels::parse("=x").is_err());
    }

    #[test]
    fn field_terms_compare_text_and_an_absent_field_is_empty() {
        for (text, want) in [
            ("spec.nodeName=edge-1", true),
            ("spec.nodeName!=edge-1", false),
            ("metadata.name=p,metadata.namespace=n", true),
            ("status.phase=", true),
            ("spec.clusterIP!=None", true),
        ] {
            assert_eq!(Fields::parse(text).unwrap().matches(&pod()), want, "{text}");
        }
        assert!(Fields::parse("nonsense").is_err());
        assert_eq!(
            Fields::parse("spec.color=red").unwrap().unsupported("pods"),
            Some("spec.color")
        );
    }
}
