//! What is kept, object by object, for the people of this node: each as its owner would be told it while the cloud is away.
//!
//! Owners are not mixed: what one was told may be older than what another was. An answer ends after so many bytes, and after a
//! while: who asks goes on behind the last object. Each is as of the moment at which it was looked up.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;

use crate::kube::groups::qualified;
use crate::kube::media::Encoding;
use crate::kube::request::{RequestInfo, ResourceRequest};
use crate::runtime::clock;
use crate::view::key::ViewKey;
use crate::view::newest::Newest;

use super::Cache;
use super::objects::Kept;

/// Bytes of objects after which an answer ends.
const LARGEST: usize = 4 << 20;

/// And after so long.
const LONGEST: Duration = Duration::from_secs(2);

/// Which objects are asked for. `None` takes any.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its plural.
    pub resource: String,
    /// The API group; empty for the core group.
    pub group: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// Whose: a principal's key, or the common name of a certificate.
    pub client: Option<String>,
}

/// Where one object of one owner stands among all. Displayed, and read again, as `OWNER PATH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// A principal's key, which has no blank.
    pub owner: String,
    /// As in a request for it.
    pub path: String,
}

/// An object of which something is kept.
#[derive(Debug)]
pub struct Item {
    /// Whose it is, and which.
    pub place: Place,
    /// What the path means.
    pub named: Arc<ResourceRequest>,
    /// As its owner would be told it; `None`: of what is kept nobody can say whether it still is so.
    pub told: Option<Told>,
}

/// An object as it was read.
#[derive(Debug)]
pub struct Told {
    /// The text of the representation: `json`, `protobuf;metadata/v1`.
    pub form: String,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The body of an answer.
    pub body: Bytes,
    /// When it was last known to be current.
    pub validated: SystemTime,
}

/// A part of what is asked for.
#[derive(Debug, Default)]
pub struct Part {
    /// In the order of their places.
    pub items: Vec<Item>,
    /// There may be more behind this.
    pub next: Option<Place>,
    /// The disk did not say all that there is.
    pub is_incomplete: bool,
}

impl Cache {
    /// The objects that are wanted, from behind `after` on.
    pub async fn inventory(&self, wanted: &Wanted, after: Option<&Place>) -> Part {
        let (began, mut bytes, mut part) = (clock::now(), 0, Part::default());
        let is_past = |place: &Place| after.is_some_and(|after| place <= after);
        for owner in self.owners_of(wanted, after) {
            let paths = self.paths(&owner, wanted, &mut part.is_incomplete).await;
            for path in paths {
                let place = Place {
                    owner: owner.clone(),
                    path,
                };
                let Some(named) = named(&place.path).filter(|_| !is_past(&place)) else {
                    continue;
                };
                if bytes >= LARGEST || (clock::now() - began >= LONGEST && !part.items.is_empty()) {
                    part.next = part.items.last().map(|item| item.place.clone());
                    return part;
                }
                let told = match self.told_of(&owner, &place.path, &named).await {
                    Ok((told, shows)) => match told.newest(None) {
                        Newest::Absent => continue,
                        Newest::Unknown => None,
                        Newest::Seen(version) => {
                            best(shows.into_iter().filter(|show| show.seen.version == version))
                        }
                    },
                    Err(_) => None,
                };
                bytes += told.as_ref().map_or(0, |told| told.body.len());
                part.items.push(Item { place, named, told });
            }
        }
        part
    }

    /// What there are objects of: `pods`, `deployments.apps`.
    pub async fn kept_resources(&self) -> BTreeSet<String> {
        let mut kept = BTreeSet::new();
        for owner in self.owners_of(&Wanted::default(), None) {
            let known = self.owner(&owner);
            {
                let views = known.views.lock();
                kept.extend(views.names.keys().map(|key| qualified(&key.group, &key.resource)));
            }
            let paths = known.objects.run(|objects| objects.paths()).await;
            let objects = paths.ok().and_then(Result::ok).into_iter().flatten();
            kept.extend(
                objects
                    .filter_map(|path| named(&path))
                    .map(|it| qualified(&it.group, &it.resource)),
            );
        }
        kept
    }

    fn owners_of(&self, wanted: &Wanted, after: Option<&Place>) -> Vec<String> {
        let mut owners: Vec<String> = self.inner.owners.lock().keys().cloned().collect();
        owners.retain(|owner| wanted.is_of(owner) && after.is_none_or(|after| *owner >= after.owner));
        owners.sort_unstable();
        owners
    }

    /// The paths of all objects of which something is kept, in order.
    async fn paths(&self, owner: &str, wanted: &Wanted, is_incomplete: &mut bool) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        for (key, view) in self.views_where(owner, |key| wanted.may_be_in(key)) {
            match view.run(|view| view.keys()).await {
                Ok(keys) => paths.extend(keys.iter().map(|item| key.path_of(item))),
                Err(_) => *is_incomplete = true,
            }
        }
        match self.owner(owner).objects.run(|objects| objects.paths()).await {
            Ok(Ok(of_objects)) => paths.extend(of_objects),
            Ok(Err(_)) | Err(_) => *is_incomplete = true,
        }
        paths.retain(|path| named(path).is_some_and(|named| wanted.takes(&named)));
        paths
    }
}

impl Wanted {
    fn is_of(&self, owner: &str) -> bool {
        self.client.as_deref().is_none_or(|client| {
            // Without groups, or a service account's UID.
            let is_it = |key: &str| {
                key.strip_prefix(client)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(",o=") || rest.starts_with('@'))
            };
            is_it(owner) || owner.strip_prefix("cn:").is_some_and(is_it)
        })
    }

    fn may_be_in(&self, key: &ViewKey) -> bool {
        let in_scope = match (&self.namespace, &key.namespace) {
            (Some(wanted), Some(of_view)) => wanted == of_view,
            _ => true,
        };
        in_scope && self.is_resource(&key.group, &key.resource)
    }

    fn takes(&self, named: &ResourceRequest) -> bool {
        let is = |wanted: &Option<String>, it: &str| wanted.as_deref().is_none_or(|wanted| wanted == it);
        self.is_resource(&named.group, &named.resource)
            && is(&self.namespace, &named.namespace)
            && is(&self.name, &named.name)
    }

    fn is_resource(&self, group: &str, resource: &str) -> bool {
        self.resource == resource && self.group.as_deref().is_none_or(|wanted| wanted == group)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.owner, self.path)
    }
}

impl Place {
    /// Reads what is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, path) = text.split_once(' ')?;
        Some(Self {
            owner: owner.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// The object that a path names; `None` for a subresource.
fn named(path: &str) -> Option<Arc<ResourceRequest>> {
    match RequestInfo::parse(&Method::GET, path, None) {
        RequestInfo::Resource(named) if !named.name.is_empty() && named.subresource.is_empty() => Some(named),
        _ => None,
    }
}

/// The form that says most to a person, and of equal ones what was confirmed last.
fn best(shows: impl Iterator<Item = Kept>) -> Option<Told> {
    let rank = |form: &str| match form {
        "json" => 0,
        "cbor" => 1,
        "protobuf" => 2,
        _ if form.contains(";metadata/") => 3,
        _ => 4,
    };
    let best = shows.min_by_key(|show| (rank(&show.form), Reverse(show.validated)))?;
    Some(Told {
        form: best.form,
        encoding: best.encoding,
        body: best.body,
        validated: best.validated,
    })
}
