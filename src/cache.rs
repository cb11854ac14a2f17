//! What was read before: recording the answers of forwarded reads, and answering from them while the cloud is away.
//!
//! Owns keys, the tee, the stored views, objects and documents of every principal, and what is answered from them.
//! Knows nothing of connections or of who may ask: callers pass the principal's key, and data never crosses from one
//! owner to another. Invariants: recording never changes or breaks the client's stream and delays it by at most 100 ms
//! in all; nothing incomplete is ever kept; everything here that touches the disk runs on blocking threads.

mod answer;
mod collection;
mod decode;
mod documents;
mod issuer;
mod lists;
mod objects;
mod pods;
mod query;
mod recording;
mod replies;
mod source;
mod spool;
mod stream;
mod tee;
mod tokens;
mod watches;
mod writes;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::identity::NodeKey;
use crate::runtime::clock;
use crate::runtime::strand::{Strand, StrandGone};
use crate::runtime::tasks::Tasks;
use crate::store::{LogId, LogSummary, Store, StoreError};
use crate::view::event::Input;
use crate::view::key::ViewKey;
use crate::view::pages::{PageLimits, Pages};

use self::collection::StoredView;
use self::objects::Objects;
use self::recording::{PageStage, PageTurns};
use self::replies::Replies;
use self::source::Source;
use self::tee::Handover;

pub use self::answer::{Answer, Found};
pub use self::issuer::{IssuerDocument, StoredIssuer};
pub use self::pods::Presence;
pub use self::query::{ListName, Query, Target};
pub use self::recording::{Recording, is_from_apiserver};
pub use self::replies::{Ask, LARGEST_ASKED, ReplyRecording, may_be_asked_again};
pub use self::spool::{Spool, SpoolForm};
pub use self::tokens::{Noted, StoredTokens};
pub use self::watches::{HeldStart, WatchPlan, WatchRecording};
pub use self::writes::refresh_after_write;

/// Lists being received at once; each keeps one blocking thread.
const RECORDING_SLOTS: usize = 256;

/// Answers that wait for the disk: most are a few KiB, a whole one is at most 64 KiB; large ones also need a slot.
const MAX_UNDER_WAY: usize = 1024;

/// Bytes of watch events that wait to be written, over all watches.
const EVENT_BUDGET: usize = 16 << 20;

const PAGES: PageLimits = PageLimits {
    chains: 64,
    idle: Duration::from_secs(300),
};

/// What a cache needs to know.
pub struct CacheConfig {
    /// For large answers that arrive faster than they can be parsed; without it they are given up.
    pub spool: Option<Spool>,
    /// Seals kept tokens and reviews.
    pub node_key: NodeKey,
    /// For how long a review may be given again; zero keeps none.
    pub reviews: Duration,
}

/// The cache of this node. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    tasks: Tasks,
    spool: Option<Spool>,
    owners: Mutex<HashMap<String, Arc<Owner>>>,
    pages: Mutex<Pages<String, PageStage>>,
    page_turns: Arc<PageTurns>,
    numbers: AtomicU64,
    slots: Arc<Semaphore>,
    events: Arc<Semaphore>,
    under_way: watch::Sender<usize>,
    confirmed: Mutex<HashMap<LogId, SystemTime>>,
    replies: Replies,
}

/// An answer on its way to its strand.
struct UnderWay(Cache);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.inner.under_way.send_modify(|count| *count -= 1);
    }
}

/// What one principal has.
struct Owner {
    objects: Strand<Objects>,
    views: Mutex<Views>,
}

#[derive(Default)]
struct Views {
    /// Every view that is on disk or being received.
    names: BTreeSet<ViewKey>,
    open: HashMap<ViewKey, ViewHandle>,
}

/// A view on its strand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ViewHandle {
    id: Arc<LogId>,
    strand: Strand<StoredView>,
    cache: Weak<Inner>,
}

impl ViewHandle {
    fn id(&self) -> &LogId {
        &self.id
    }

    /// Queues work on the view, behind everything that was posted before.
    fn post(&self, work: impl FnOnce(&mut StoredView) + Send + 'static) {
        let own = self.clone();
        self.strand.post(move |view| {
            work(view);
            if view.take_restarted()
                && let Some(inner) = own.cache.upgrade()
            {
                Cache { inner }.history_restarted(own.id());
            }
        });
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StoredView) -> R + Send + 'static,
    ) -> Result<R, StrandGone> {
        self.strand.run(work).await
    }
}

impl Cache {
    /// A cache over an open store.
    pub fn new(store: Arc<dyn Store>, config: CacheConfig, tasks: Tasks) -> Self {
        let mut names: HashMap<String, BTreeSet<ViewKey>> = HashMap::new();
        for log in store.logs() {
            if let Some(key) = ViewKey::parse(&log.id.name) {
                names.entry(log.id.owner).or_default().insert(key);
            } else if log.id.name == objects::LOG_NAME {
                names.entry(log.id.owner).or_default();
            }
        }
        let inner = Inner {
            replies: Replies::open(&store, &config.node_key, config.reviews, &tasks),
            store,
            tasks,
            spool: config.spool,
            owners: Mutex::default(),
            pages: Mutex::new(Pages::new(PAGES)),
            page_turns: Arc::default(),
            numbers: AtomicU64::new(1),
            slots: Arc::new(Semaphore::new(RECORDING_SLOTS)),
            events: Arc::new(Semaphore::new(EVENT_BUDGET / 1024)),
            under_way: watch::Sender::new(0),
            confirmed: Mutex::default(),
        };
        let cache = Self {
            inner: Arc::new(inner),
        };
        for (owner, names) in names {
            cache.owner(&owner).views.lock().names = names;
        }
        cache
    }

    /// Begins to record a read that is about to be forwarded.
    pub fn record(&self, query: &Query) -> Recording {
        Recording::begin(self, query)
    }

    /// What the store holds: every principal's views, objects and documents, and the node's own logs. For status.
    pub fn logs(&self) -> Vec<LogSummary> {
        self.inner.store.logs()
    }

    /// Waits until everything that was recorded so far is with the store.
    pub async fn settle(&self) {
        let mut under_way = self.inner.under_way.subscribe();
        // What it gives is a lock on the count: not to be held while recordings go on.
        drop(under_way.wait_for(|count| *count == 0).await);
        self.inner.replies.settle().await;
        let owners: Vec<Arc<Owner>> = self.inner.owners.lock().values().cloned().collect();
        for owner in owners {
            // First the objects: a refusal is read there and posted to the views.
            let _stopped = owner.objects.run(|_| ()).await;
            let views: Vec<ViewHandle> = owner.views.lock().open.values().cloned().collect();
            for view in views {
                let _stopped = view.run(|_| ()).await;
            }
        }
    }

    /// Lets go of views that nothing came of, so that requests for what does not exist leave nothing behind, and of
    /// chains of pages that nobody continues. For a maintenance task.
    pub async fn prune(&self) {
        let expired = self.pages().expire(clock::now());
        // Dropping what is staged touches the disk.
        let _panicked = self.tasks().spawn_blocking(move || drop(expired)).await;
        let names: Vec<String> = self.inner.owners.lock().keys().cloned().collect();
        for name in names {
            let owner = self.owner(&name);
            let open: Vec<(ViewKey, ViewHandle)> = owner
                .views
                .lock()
                .open
                .iter()
                .map(|(key, view)| (key.clone(), view.clone()))
                .collect();
            for (key, view) in open {
                if !view.run(|view| view.is_void()).await.unwrap_or(false) {
                    continue;
                }
                drop(view);
                let mut views = owner.views.lock();
                // Whoever works with the view holds its handle, and new ones are only made under this lock.
                let unused = views
                    .open
                    .get(&key)
                    .is_some_and(|view| Arc::strong_count(&view.id) == 1);
                if unused {
                    views.open.remove(&key);
                    views.names.remove(&key);
                }
            }
            self.prune_owner(&name, owner).await;
        }
    }

    /// Lets go of a principal of whom nothing is kept: one that only claimed to be somebody, for example.
    async fn prune_owner(&self, name: &str, owner: Arc<Owner>) {
        let is_void = owner.objects.run(Objects::is_void).await.unwrap_or(false);
        let mut owners = self.inner.owners.lock();
        // Ours and the map's: whoever works with it holds one more, and new ones are only taken under this lock.
        let unused = Arc::strong_count(&owner) == 2 && owner.views.lock().names.is_empty();
        if is_void && unused {
            owners.remove(name);
        }
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    fn pages(&self) -> MutexGuard<'_, Pages<String, PageStage>> {
        self.inner.pages.lock()
    }

    /// Counts an answer that has been received but is not with its strand yet. `None`: so many wait for the disk that
    /// this one is not kept, or a disk that hangs would fill the memory.
    fn under_way(&self) -> Option<UnderWay> {
        let counted = self.inner.under_way.send_if_modified(|count| {
            let has_room = *count < MAX_UNDER_WAY;
            *count += usize::from(has_room);
            has_room
        });
        if !counted {
            tracing::debug!("the disk does not keep up, an answer is not kept");
        }
        counted.then(|| UnderWay(self.clone()))
    }

    fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    fn page_turns(&self) -> &Arc<PageTurns> {
        &self.inner.page_turns
    }

    fn next_number(&self) -> u64 {
        self.inner.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn recording_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.slots).try_acquire_owned().ok()
    }

    fn source(&self, handover: Handover) -> Source {
        match handover {
            Handover::Whole(chunks) => Source::whole(chunks),
            Handover::Live(pieces) => Source::live(pieces, self.inner.spool.clone()),
        }
    }

    fn owner(&self, owner: &str) -> Arc<Owner> {
        let mut owners = self.inner.owners.lock();
        let known = owners.get(owner);
        if let Some(known) = known.filter(|known| !known.objects.is_gone()) {
            return Arc::clone(known);
        }
        let names = known
            .map(|lost| lost.views.lock().names.clone())
            .unwrap_or_default();
        let objects = Strand::spawn(self.tasks(), Objects::new(Arc::clone(self.store()), owner));
        let views = Mutex::new(Views {
            names,
            ..Views::default()
        });
        let made = Arc::new(Owner { objects, views });
        owners.insert(owner.to_owned(), Arc::clone(&made));
        made
    }

    /// The view of this key, begun if need be.
    fn view(&self, owner: &str, key: &ViewKey) -> ViewHandle {
        let known = self.owner(owner);
        let mut views = known.views.lock();
        if let Some(open) = views.open.get(key).filter(|open| !open.strand.is_gone()) {
            return open.clone();
        }
        let id = Arc::new(LogId::new(owner, key.to_text()));
        let strand = Strand::spawn_with(self.tasks(), {
            let (store, id) = (Arc::clone(self.store()), LogId::clone(&id));
            move || StoredView::open(store, id)
        });
        let handle = ViewHandle {
            id,
            strand,
            cache: Arc::downgrade(&self.inner),
        };
        views.names.insert(key.clone());
        views.open.insert(key.clone(), handle.clone());
        handle
    }

    /// The view of this key, if there is or may be one.
    fn existing_view(&self, owner: &str, key: &ViewKey) -> Option<ViewHandle> {
        let known = self.owner(owner);
        let exists = known.views.lock().names.contains(key);
        exists.then(|| self.view(owner, key))
    }

    /// Every view of an owner that satisfies `wanted`.
    fn views_where(&self, owner: &str, wanted: impl Fn(&ViewKey) -> bool) -> Vec<(ViewKey, ViewHandle)> {
        let keys: Vec<ViewKey> = self
            .owner(owner)
            .views
            .lock()
            .names
            .iter()
            .filter(|key| wanted(key))
            .cloned()
            .collect();
        keys.into_iter()
            .map(|key| {
                let view = self.view(owner, &key);
                (key, view)
            })
            .collect()
    }

    /// The history that one view is part of went back: nothing that the other views of it hold can be resumed or
    /// trusted.
    fn history_restarted(&self, seen_by: &LogId) {
        let Some(witness) = ViewKey::parse(&seen_by.name) else {
            return;
        };
        let owners: Vec<(String, Arc<Owner>)> = self
            .inner
            .owners
            .lock()
            .iter()
            .map(|(name, owner)| (name.clone(), Arc::clone(owner)))
            .collect();
        for (name, owner) in owners {
            let keys: Vec<ViewKey> = owner
                .views
                .lock()
                .names
                .iter()
                .filter(|key| shares_history(&witness, key))
                .cloned()
                .collect();
            for key in keys {
                let view = self.view(&name, &key);
                if view.id() != seen_by {
                    view.post(|view| view.input(Input::HistoryRestarted));
                }
            }
            if !is_cluster(&witness) {
                continue;
            }
            owner.objects.post(move |objects| {
                if let Err(error) = objects.forget_all() {
                    tracing::error!(owner = %name, %error, "objects of a lost history could not be removed");
                }
            });
        }
    }

    /// Remembers when a document was last received: one that had not changed was not written again.
    fn document_kept(&self, id: &LogId) {
        tracing::debug!(owner = %id.owner, document = %id.name, "document recorded");
        self.inner.confirmed.lock().insert(id.clone(), clock::wall());
    }

    /// When a document was last received in this process.
    fn confirmed(&self, id: &LogId) -> Option<SystemTime> {
        self.inner.confirmed.lock().get(id).copied()
    }

    /// Drops every variant of these documents.
    fn forget_documents(&self, owner: &str, names: &[String]) -> Result<(), StoreError> {
        let prefixes: Vec<String> = names
            .iter()
            .map(|name| documents::document_id(owner, name, "").name)
            .collect();
        for log in self.store().logs() {
            let named = prefixes.iter().any(|prefix| log.id.name.starts_with(prefix));
            if log.id.owner == owner && named {
                self.store().remove(&log.id)?;
                self.inner.confirmed.lock().remove(&log.id);
            }
        }
        Ok(())
    }
}

/// Whether a restart of the history that `witness` saw concerns the view of `key`. The core group stands for the whole
/// cluster, but for Events, which may live in an etcd of their own. Any other group may be an aggregated apiserver with
/// versions of its own (a metrics server starts again at every restart): it speaks for itself alone.
fn shares_history(witness: &ViewKey, key: &ViewKey) -> bool {
    is_cluster(witness) || (witness.group == key.group && witness.resource == key.resource)
}

fn is_cluster(witness: &ViewKey) -> bool {
    witness.group.is_empty() && witness.resource != "events"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(group: &str, resource: &str) -> ViewKey {
        let text = format!("{}+v1+{resource}+++++json", group);
        ViewKey::parse(&text).unwrap()
    }

    #[test]
    fn only_the_core_group_speaks_for_the_whole_cluster() {
        assert!(shares_history(&key("", "pods"), &key("apps", "deployments")));
        assert!(!shares_history(&key("", "events"), &key("", "pods")));
        assert!(!shares_history(
            &key("metrics.k8s.io", "nodes"),
            &key("", "nodes")
        ));
        assert!(shares_history(
            &key("apps", "deployments"),
            &key("apps", "deployments")
        ));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_does_not_fill_the_memory() {
        let store: Arc<dyn Store> = Arc::new(crate::store::LogStore::memory().unwrap());
        let config = CacheConfig {
            spool: None,
            node_key: NodeKey::from_bytes([0; 32]),
            reviews: Duration::ZERO,
        };
        let cache = Cache::new(store, config, Tasks::new());
        let mut waiting: Vec<_> = (0..MAX_UNDER_WAY).map(|_| cache.under_way()).collect();
        assert!(waiting.iter().all(Option::is_some));
        assert!(cache.under_way().is_none(), "one more is not kept");
        waiting.pop();
        assert!(cache.under_way().is_some(), "there is room again");
        waiting.clear();
        cache.settle().await;
    }
}
