//! Who may do what, and the 403 that says otherwise.

use serde_json::json;

use crate::auth::User;
use crate::request_info::RequestInfo;
use crate::status::Status;

/// A list of grants; what nothing grants is forbidden. Group `system:masters` may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rbac {
    rules: Vec<Rule>,
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One user name.
    User(String),
    /// Members of a group.
    Group(String),
    /// Everybody, also anonymous requests.
    Everyone,
}

/// One grant. `*` stands for anything in every list; an empty list grants nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    subject: Subject,
    verbs: Vec<String>,
    resources: Vec<String>,
    namespace: Option<String>,
    name: Option<String>,
    paths: Vec<String>,
}

impl Rule {
    /// `verbs` on `resources` (`pods`, `pods/status`, `*`), in every API group and namespace.
    #[must_use]
    pub fn allow(subject: Subject, verbs: &[&str], resources: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self {
            subject,
            verbs: owned(verbs),
            resources: owned(resources),
            namespace: None,
            name: None,
            paths: vec![],
        }
    }

    /// `verbs` (`get`, `post`, ...) on paths that are no resources; a final `*` matches the rest.
    #[must_use]
    pub fn allow_paths(subject: Subject, verbs: &[&str], paths: &[&str]) -> Self {
        let mut rule = Self::allow(subject, verbs, &[]);
        rule.paths = paths.iter().map(|s| (*s).to_owned()).collect();
        rule
    }

    /// Only in this namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Only for this object name (lists and watches: selected by `metadata.name`).
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn grants(&self, user: &User, info: &RequestInfo) -> bool {
        let subject = match &self.subject {
            Subject::User(name) => *name == user.name,
            Subject::Group(group) => user.groups.contains(group),
            Subject::Everyone => true,
        };
        let has = |list: &[String], want: &str| list.iter().any(|s| s == "*" || s == want);
        if !subject || !has(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource {
            return self.paths.iter().any(|p| match p.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => *p == info.path,
            });
        }
        has(&self.resources, &qualified(info))
            && self.namespace.as_ref().is_none_or(|n| *n == info.namespace)
            && self.name.as_ref().is_none_or(|n| *n == info.name)
    }
}

impl Rbac {
    /// Everybody may do everything.
    #[must_use]
    pub fn allow_all() -> Self {
        let everything = Rule::allow(Subject::Everyone, &["*"], &["*"]);
        Self {
            rules: vec![everything, Rule::allow_paths(Subject::Everyone, &["*"], &["*"])],
        }
    }

    /// Nothing but what every Kubernetes cluster grants: health, version and discovery to everyone, and the issuer
    /// documents to service accounts.
    #[must_use]
    pub fn deny_all() -> Self {
        let open = [
            "/healthz*",
            "/livez*",
            "/readyz*",
            "/version*",
            "/api*",
            "/openapi*",
        ];
        let issuer = ["/.well-known/openid-configuration*", "/openid/v1/jwks*"];
        let accounts = Subject::Group("system:serviceaccounts".into());
        Self {
            rules: vec![
                Rule::allow_paths(Subject::Everyone, &["get", "head"], &open),
                Rule::allow_paths(accounts, &["get"], &issuer),
            ],
        }
    }

    /// Adds one grant.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    pub(crate) fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), Status> {
        let master = user.groups.iter().any(|g| g == "system:masters");
        if master || self.rules.iter().any(|r| r.grants(user, info)) {
            return Ok(());
        }
        Err(refusal(user, info))
    }
}

/// `pods/status`.
fn qualified(info: &RequestInfo) -> String {
    if info.subresource.is_empty() {
        info.resource.clone()
    } else {
        format!("{}/{}", info.resource, info.subresource)
    }
}

fn refusal(user: &User, info: &RequestInfo) -> Status {
    let (name, verb) = (&user.name, &info.verb);
    if !info.is_resource {
        let message = format!("forbidden: User {name:?} cannot {verb} path {:?}", info.path);
        return Status::forbidden(json!({}), message);
    }
    let what = if info.group.is_empty() {
        info.resource.clone()
    } else {
        format!("{}.{}", info.resource, info.group)
    };
    let named = if info.name.is_empty() {
        String::new()
    } else {
        format!(" {:?}", info.name)
    };
    let place = if info.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", info.namespace)
    };
    let message = format!(
        "{what}{named} is forbidden: User {name:?} cannot {verb} resource {:?} in API group {:?} {place}",
        qualified(info),
        info.group
    );
    let mut details = json!({"kind": info.resource});
    if !info.name.is_empty() {
        details["name"] = json!(info.name);
    }
    if !info.group.is_empty() {
        details["group"] = json!(info.group);
    }
    Status::forbidden(details, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;

    fn info(path: &str, query: &str) -> RequestInfo {
        RequestInfo::parse(&http::Method::GET, path, &Query::parse(query)).unwrap()
    }

    fn node() -> User {
        User {
            name: "system:node:edge-1".into(),
            groups: vec!["system:nodes".into()],
            ..User::anonymous()
        }
    }

    #[test]
    fn a_refusal_reads_like_the_real_one() {
        let none = Rbac::default();
        let said = |path| none.authorize(&node(), &info(path, "")).unwrap_err().message;
        assert_eq!(
            said("/api/v1/namespaces/n/secrets"),
            "secrets is forbidden: User \"system:node:edge-1\" cannot list resource \"secrets\" in API group \"\" in \
             the namespace \"n\""
        );
        assert_eq!(
            said("/apis/apps/v1/namespaces/n/deployments/d"),
            "deployments.apps \"d\" is forbidden: User \"system:node:edge-1\" cannot get resource \"deployments\" in \
             API group \"apps\" in the namespace \"n\""
        );
        assert_eq!(
            said("/metrics"),
            "forbidden: User \"system:node:edge-1\" cannot get path \"/metrics\""
        );
    }

    #[test]
    fn a_rule_grants_by_subject_verb_resource_namespace_and_name() {
        let nodes = Subject::Group("system:nodes".into());
        let rbac = Rbac::deny_all().with(
            Rule::allow(nodes, &["list", "watch"], &["secrets"])
                .in_namespace("n")
                .named("s"),
        );
        let may = |path, query| rbac.authorize(&node(), &info(path, query)).is_ok();
        assert!(may(
            "/api/v1/namespaces/n/secrets",
            "fieldSelector=metadata.name%3Ds"
        ));
        assert!(!may("/api/v1/namespaces/n/secrets", ""));
        assert!(!may(
            "/api/v1/namespaces/m/secrets",
            "fieldSelector=metadata.name%3Ds"
        ));
        assert!(!may("/api/v1/namespaces/n/secrets/s", ""));
        assert!(may("/version", "") && may("/apis/apps/v1", "") && !may("/openid/v1/jwks", ""));
    }
}
