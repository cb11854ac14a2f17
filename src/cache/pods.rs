//! Whether a pod is on this node, as kubelet's own view of its node's pods has it.

use std::time::SystemTime;

use crate::identity::PodReference;
use crate::kube::version::ResourceVersion;
use crate::view::key::ViewKey;
use crate::wire::object::read_item;

use super::{Cache, in_time};

/// What is known of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The view holds it, with this UID.
    Here,
    /// The view does not hold it; when the view was last known to be current.
    GoneBy(SystemTime),
    /// There is no such view.
    Unknown,
}

impl Cache {
    /// Looks for a pod in the newest of the owner's views of the pods of a node: there is one for each encoding that
    /// somebody asked for, and only one of them may be kept up to date.
    pub async fn presence(&self, owner: &str, pod: &PodReference) -> Presence {
        in_time(self.seen_presence(owner, pod))
            .await
            .unwrap_or(Presence::Unknown)
    }

    async fn seen_presence(&self, owner: &str, pod: &PodReference) -> Presence {
        let mut newest: Option<(ResourceVersion, Presence)> = None;
        for (_, view) in self.views_where(owner, is_pods_of_node) {
            let key = format!("{}/{}", pod.namespace, pod.name);
            let read = view.run(move |view| (view.item(&key), view.version())).await;
            let Ok((Some((item, form, validated)), Some(version))) = read else {
                continue;
            };
            let uid = item.and_then(|item| Some(read_item(form.encoding, &item).ok()?.uid));
            let presence = if uid.as_deref() == Some(&pod.uid) {
                Presence::Here
            } else {
                Presence::GoneBy(validated)
            };
            if newest.as_ref().is_none_or(|(known, _)| version.is_after(known)) {
                newest = Some((version, presence));
            }
        }
        newest.map_or(Presence::Unknown, |(_, presence)| presence)
    }
}

/// All pods with `spec.nodeName` of one node, and no other condition.
fn is_pods_of_node(key: &ViewKey) -> bool {
    let is_pods = key.group.is_empty() && key.version == "v1" && key.resource == "pods";
    let node = key.field_selector.strip_prefix("spec.nodeName=");
    is_pods
        && key.is_understood()
        && key.namespace.is_none()
        && key.label_selector.is_empty()
        && key.shard_selector.is_empty()
        && node.is_some_and(|node| !node.is_empty() && !node.contains([',', '=']))
}
