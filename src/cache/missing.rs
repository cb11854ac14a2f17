//! Why the cache has no answer, once that is certain: looked up in what the asking principal has read, and nowhere else, so that
//! nobody learns from a refusal what others have read.

use crate::kube::media::{self, Encoding, Offer, Representation, Rows};
use crate::kube::request::ResourceRequest;
use crate::runtime::strand::NoAnswer;
use crate::store::LogId;
use crate::view::derive;
use crate::view::key::ViewKey;
use crate::view::offline::{Missing, ReadAs};

use super::documents::document_id;
use super::objects::LOG_NAME;
use super::query::{Query, view_key};
use super::{Cache, Owner};

/// What `kubectl get` asks for.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// A part of the cache that gives no answer; one that is gone will not come back either.
pub(super) fn late(_: NoAnswer) -> Missing {
    Missing::SlowDisk
}

impl Cache {
    /// Why a collection cannot be answered: no view that could answer it is kept in a form that is asked for.
    pub(super) async fn missing_collection(&self, query: &Query, resource: &ResourceRequest) -> Missing {
        let forms = query.representations();
        let wanted: Vec<ViewKey> = forms.iter().map(|form| view_key(resource, form)).collect();
        let Some(first) = wanted.first() else {
            return Missing::NotRead;
        };
        let answering: Vec<ViewKey> = wanted.iter().flat_map(keys_of_candidates).collect();
        let sources = keys_of_candidates(&first.formless());
        let kept = self.kept_of(&query.owner, first);
        if kept.iter().any(|key| answering.contains(key)) {
            return Missing::Damaged;
        }
        let other_form = kept.iter().find(|key| sources.contains(&key.formless()));
        if let Some(other) = other_form {
            return Missing::OtherForm(ReadAs::of(&other.representation));
        }
        if !self.tables_of(&query.owner, &sources).is_empty() {
            return Missing::OtherForm(ReadAs::Table);
        }
        let withdrawn = |owner: &Owner| {
            owner
                .views
                .lock()
                .withdrawn
                .iter()
                .any(|key| sources.contains(key))
        };
        if self
            .known_owner(&query.owner)
            .is_some_and(|owner| withdrawn(&owner))
        {
            return Missing::Withdrawn;
        }
        let logs = answering
            .iter()
            .map(|key| LogId::new(&*query.owner, key.to_text()));
        if self.is_damaged(logs.collect()).await {
            return Missing::Damaged;
        }
        let whole = [Some(None), first.namespace.clone().map(Some)]
            .into_iter()
            .flatten();
        let whole: Vec<ViewKey> = whole.map(|namespace| unselected(first, namespace)).collect();
        match kept.is_empty() && self.tables_of(&query.owner, &whole).is_empty() {
            true => Missing::NotRead,
            false => Missing::OtherPart,
        }
    }

    /// Why nothing at all is known of an object.
    pub(super) async fn missing_object(&self, query: &Query, resource: &ResourceRequest) -> Missing {
        let mut collection = resource.clone();
        collection.options.field_selector = format!("metadata.name={}", resource.name);
        let named = view_key(&collection, &Representation::full(Encoding::Json)).formless();
        if !self
            .tables_of(&query.owner, &keys_of_candidates(&named))
            .is_empty()
        {
            return Missing::OtherForm(ReadAs::Table);
        }
        match self.is_damaged(vec![LogId::new(&*query.owner, LOG_NAME)]).await {
            true => Missing::Damaged,
            false => Missing::NotRead,
        }
    }

    /// Whether the disk has damaged one of these.
    pub(super) async fn is_damaged(&self, logs: Vec<LogId>) -> bool {
        let store = self.store().clone();
        let looked = self
            .tasks()
            .on_disk(move || logs.iter().any(|log| store.is_damaged(log)))
            .await;
        looked.unwrap_or(false)
    }

    /// The views of this resource that are kept.
    fn kept_of(&self, owner: &str, wanted: &ViewKey) -> Vec<ViewKey> {
        let Some(known) = self.known_owner(owner) else {
            return Vec::new();
        };
        let views = known.views.lock();
        let of_resource = views.names.keys().filter(|key| {
            (&key.group, &key.version, &key.resource) == (&wanted.group, &wanted.version, &wanted.resource)
        });
        let kept = of_resource.filter(|key| self.store().holds(&LogId::new(owner, key.to_text())));
        kept.cloned().collect()
    }

    /// Those of these collections that are kept as `kubectl get` prints them.
    pub(super) fn tables_of<'a>(
        &self,
        owner: &str,
        collections: impl IntoIterator<Item = &'a ViewKey>,
    ) -> Vec<ViewKey> {
        let tables = media::acceptable(Some(TABLE), Rows::default(), Offer::All);
        let table = tables.first().map(ToString::to_string).unwrap_or_default();
        let collections = collections.into_iter().map(|collection| ViewKey {
            representation: table.clone(),
            ..collection.clone()
        });
        let is_kept = |key: &ViewKey| self.store().holds(&document_id(owner, &key.to_text(), ""));
        collections.filter(is_kept).collect()
    }
}

/// All of this resource in a namespace, or everywhere.
fn unselected(key: &ViewKey, namespace: Option<String>) -> ViewKey {
    ViewKey {
        namespace,
        label_selector: String::new(),
        field_selector: String::new(),
        shard_selector: String::new(),
        ..key.clone()
    }
}

/// The collections that this one can be answered from, itself included.
fn keys_of_candidates(wanted: &ViewKey) -> Vec<ViewKey> {
    let candidates = derive::candidates(wanted);
    candidates.into_iter().map(|candidate| candidate.key).collect()
}
