//! `GET /cache/objects`: what is kept, object by object and decoded, for the people of this node.
//!
//! | parameter | what |
//! |---|---|
//! | `resource` | `pods`, `deployments.apps`; needed. Without a group: of every group |
//! | `namespace`, `name` | of which; without: all |
//! | `client` | whose: a principal's key, or the common name of a certificate |
//! | `secrets=true` | what [`hide`] takes out otherwise; over a Unix socket only |
//! | `after` | what `continue` of the answer before says |

mod hide;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{Cache, Item, Part, Place, Wanted};
use crate::kube::groups::qualified;
use crate::wire::plain;

use super::status::{API_VERSION, moment};

/// Objects that are kept. Fields may be added within an `apiVersion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedObjects {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `CachedObjects`.
    pub kind: String,
    /// Ordered by client, resource, namespace and name.
    pub items: Vec<CachedObject>,
    /// There may be more: to be asked for with this as `after`.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The disk did not say all that there is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// Where nothing was found: what there are objects of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_resources: Vec<String>,
}

/// One object as one client would be told it while the cloud is away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedObject {
    /// Whose it is, as `cn:system:node:edge-1,o=system:nodes`.
    pub client: String,
    /// `pods`, `deployments.apps`.
    pub resource: String,
    /// Absent for what is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The form that is shown, as `json` or `protobuf;metadata/v1`; absent where it is not known which of what is kept still
    /// is so: then nobody is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Of its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// When it was last known to be current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validated: Option<String>,
    /// The object, or what of it could be decoded; absent if nothing could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Value>,
    /// `object` is not all: it is protobuf of a type whose fields are not all known here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Values were taken out: it is a Secret, or like one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

/// Whether values are told that are secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Hidden,
    Shown,
}

/// A request, understood.
pub(super) struct Asked {
    wanted: Wanted,
    after: Option<Place>,
    pub(super) secrets: Secrets,
}

impl Asked {
    /// What a query asks for.
    pub(super) fn parse(query: &str) -> Result<Self, &'static str> {
        let mut asked = Self {
            wanted: Wanted::default(),
            after: None,
            secrets: Secrets::Hidden,
        };
        let mut resource = None;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*key {
                "resource" => resource = Some(value),
                "namespace" => asked.wanted.namespace = Some(value),
                "name" => asked.wanted.name = Some(value),
                "client" => asked.wanted.client = Some(value),
                "secrets" if value == "true" => asked.secrets = Secrets::Shown,
                "after" => asked.after = Some(Place::parse(&value).ok_or("`after` is what `continue` said")?),
                _ => return Err("there is resource, namespace, name, client, secrets=true and after"),
            }
        }
        let resource = resource.ok_or("name a resource: ?resource=pods")?;
        (asked.wanted.resource, asked.wanted.group) = match resource.split_once('.') {
            Some((resource, group)) => (resource.to_owned(), Some(group.to_owned())),
            None => (resource, None),
        };
        Ok(asked)
    }

    /// What the cache has of it.
    pub(super) async fn look(&self, cache: &Cache) -> (Part, Vec<String>) {
        let part = cache.inventory(&self.wanted, self.after.as_ref()).await;
        let kept = if part.items.is_empty() && self.after.is_none() {
            cache.kept_resources().await.into_iter().collect()
        } else {
            Vec::new()
        };
        (part, kept)
    }
}

/// Decodes what was found, and takes out what is secret.
pub(super) fn told((part, kept_resources): (Part, Vec<String>), secrets: Secrets) -> CachedObjects {
    CachedObjects {
        api_version: API_VERSION.to_owned(),
        kind: "CachedObjects".to_owned(),
        items: part.items.into_iter().map(|item| object(item, secrets)).collect(),
        next: part.next.map(|place| place.to_string()),
        incomplete: part.is_incomplete,
        kept_resources,
    }
}

fn object(item: Item, secrets: Secrets) -> CachedObject {
    let Item { place, named, told } = item;
    let mut object = CachedObject {
        client: place.owner,
        resource: qualified(&named.group, &named.resource),
        namespace: (!named.namespace.is_empty() && named.resource != "namespaces")
            .then(|| named.namespace.clone()),
        name: named.name.clone(),
        form: None,
        bytes: None,
        validated: None,
        object: None,
        partial: false,
        hidden: false,
    };
    let Some(told) = told else { return object };
    object.bytes = Some(told.body.len());
    object.validated = Some(moment(told.validated));
    object.form = Some(told.form);
    if let Ok(mut plain) = plain::read(told.encoding, &told.body) {
        object.hidden = secrets == Secrets::Hidden && hide::is_secret(&named.resource);
        if object.hidden {
            hide::values(&mut plain.value);
        }
        object.partial = !plain.is_whole;
        object.object = Some(plain.value);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_objects_and_nothing_unknown() {
        let asked =
            Asked::parse("resource=deployments.apps&namespace=a&name=b&client=cn%3Ax&after=cn:x+/p").unwrap();
        let Wanted {
            resource,
            group,
            namespace,
            name,
            client,
        } = asked.wanted;
        assert_eq!(
            (resource.as_str(), group.as_deref()),
            ("deployments", Some("apps"))
        );
        assert_eq!(
            (namespace.as_deref(), name.as_deref(), client.as_deref()),
            (Some("a"), Some("b"), Some("cn:x"))
        );
        assert_eq!(asked.after.unwrap().to_string(), "cn:x /p");
        assert_eq!(asked.secrets, Secrets::Hidden);
        for wrong in [
            "",
            "namespace=a",
            "resource=pods&secrets=yes",
            "resource=pods&after=x",
            "resource=pods&x=y",
        ] {
            assert!(Asked::parse(wrong).is_err(), "{wrong}");
        }
    }
}
