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
mod healing;
mod health;
mod high_water;
mod inventory;
mod issuer;
mod list_assembly;
mod missing;
mod objects;
mod pods;
mod query;
mod recording;
mod removal;
mod replies;
#[cfg(test)]
mod simulation;
mod source;
mod spool;
mod stream;
mod tables;
mod tee;
mod tokens;
mod views;
mod watches;
mod writes;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use http::Method;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};

use crate::identity::NodeKey;
use crate::kube::request::RequestInfo;
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::runtime::shares::{Share, Shares};
use crate::runtime::strand::{self, NoAnswer, Strand};
use crate::runtime::tasks::Tasks;
use crate::store::{LogId, LogSummary, Store, StoreError};
use crate::view::event::{Input, Start, StreamId};
use crate::view::key::ViewKey;
use crate::view::pages::{PageLimits, Pages};

use self::collection::StoredView;
use self::health::{Health, Validated};
use self::high_water::{HighWater, Level};
use self::objects::{Moment, Objects};
use self::recording::{PageStage, PageTurns};
use self::replies::Replies;
use self::source::Source;
use self::tee::Handover;
use self::views::{Used, Views};

pub use self::answer::{Answer, Found};
pub use self::healing::{Followed, Kept};
pub use self::inventory::{Item, Part, Place, Told, Wanted};
pub use self::issuer::{IssuerDocument, StoredIssuer};
pub use self::pods::Presence;
pub use self::query::{ListName, OnlyLive, Query, Target, is_document};
pub use self::recording::Recording;
pub use self::replies::{Ask, LARGEST_ASKED, ReplyRecording, may_be_asked_again};
pub use self::spool::{Spool, SpoolForm};
pub use self::tokens::{Noted, StoredTokens, TokensError};
pub use self::watches::{HeldStart, WatchPlan, WatchRecording};
pub use self::writes::{Write, refresh_after_write};

/// Lists being received at once; each keeps one blocking thread. Shared among principals, as the two below.
const RECORDING_SLOTS: usize = 256;

/// Answers that wait for the disk: most are a few KiB, a whole one is at most 64 KiB; large ones also need a slot.
const MAX_UNDER_WAY: usize = 1024;

/// Bytes of watch events that wait to be written, over all watches.
const EVENT_BUDGET: usize = 16 << 20;

/// The same of one view: one that is stuck must not cost the others of its principal their events.
const VIEW_BACKLOG: usize = 4 << 20;

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
    slots: Shares,
    /// In KiB.
    events: Shares,
    waiting: Shares,
    under_way: watch::Sender<usize>,
    confirmed: Mutex<HashMap<LogId, SystemTime>>,
    replies: Replies,
    forgotten: Counts,
}

/// Objects that were forgotten.
#[derive(Default)]
struct Counts {
    /// There were too many.
    evicted: AtomicU64,
    /// The disk could not be told of them.
    unwritten: AtomicU64,
}

/// What is counted of the cache, and how it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Objects, read one by one, that were let go because a principal had too many.
    pub evicted_objects: u64,
    /// What could neither be written nor remembered, so that all of its principal was forgotten.
    pub unwritten_objects: u64,
    /// Views that do not follow what their clients watch, until a list has made them whole.
    pub views_behind: usize,
}

/// An answer that waits for the disk.
struct UnderWay {
    cache: Cache,
    _waiting: Share,
    /// It is large.
    _slot: Option<Share>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.cache.inner.under_way.send_modify(|count| *count -= 1);
    }
}

/// What one principal has.
struct Owner {
    objects: Strand<Objects>,
    /// `None`: their log is closed.
    objects_used: Mutex<Option<Used>>,
    views: Mutex<Views>,
    /// All that is known of objects and documents is about to be forgotten.
    forgetting: AtomicBool,
    high_water: Arc<HighWater>,
}

/// A view on its strand. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ViewHandle {
    id: Arc<LogId>,
    strand: Strand<StoredView>,
    /// KiB of events that may wait for it.
    backlog: Arc<Semaphore>,
    /// It is about to be withdrawn.
    withdrawing: Arc<AtomicBool>,
    /// Streams that were begun while it was stuck.
    late: Arc<Mutex<Late>>,
    level: Arc<Level>,
    cache: Weak<Inner>,
    health: watch::Receiver<Health>,
}

/// Streams of which a view that is stuck hears as soon as it works again.
#[derive(Default)]
struct Late {
    streams: BTreeMap<StreamId, Start>,
    /// Work that tells of them waits for the view.
    is_posted: bool,
}

impl ViewHandle {
    fn id(&self) -> &LogId {
        &self.id
    }

    /// Whether nobody has another handle: no list or watch is recorded, and no work waits.
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.id) == 1
    }

    fn is_gone(&self) -> bool {
        self.strand.is_gone()
    }

    /// Whether the disk keeps it so long that nothing more should be recorded in it.
    fn is_stuck(&self) -> bool {
        self.strand.is_stuck()
    }

    /// Begins a stream of a view that is stuck. What comes before the view works again is missed. However many begin meanwhile,
    /// one piece of work waits for the view.
    fn open_late(&self, stream: StreamId, start: Start) {
        let mut late = self.late.lock();
        late.streams.insert(stream, start);
        if std::mem::replace(&mut late.is_posted, true) {
            return;
        }
        drop(late);
        let (late, level) = (Arc::clone(&self.late), Arc::clone(&self.level));
        self.post(move |view| {
            let begun = std::mem::take(&mut *late.lock());
            for (stream, start) in begun.streams {
                view.input(Input::StreamOpened { stream, start });
                view.missed(stream, &level.shown());
            }
        });
    }

    /// Whether the view has not heard of this stream yet.
    fn is_late(&self, stream: StreamId) -> bool {
        self.late.lock().streams.contains_key(&stream)
    }

    /// Takes a stream back of which the view has not heard yet; `false`: it has, or is about to.
    fn forget_late(&self, stream: StreamId) -> bool {
        self.late.lock().streams.remove(&stream).is_some()
    }

    /// Whether it does not follow what its clients watch.
    fn is_behind(&self) -> bool {
        self.health.borrow().is_behind()
    }

    /// Drops the view, behind what was posted before. However often it is asked for, it waits once.
    fn withdraw(&self) {
        if self.withdrawing.swap(true, Ordering::SeqCst) {
            return;
        }
        let withdrawing = Arc::clone(&self.withdrawing);
        self.post(move |view| {
            withdrawing.store(false, Ordering::SeqCst);
            view.withdraw();
        });
    }

    /// Queues work on the view, behind everything that was posted before.
    fn post(&self, work: impl FnOnce(&mut StoredView) + Send + 'static) {
        let own = self.clone();
        self.strand.post(move |view| {
            view.open_again();
            work(view);
            let Some(inner) = own.cache.upgrade() else {
                return;
            };
            if view.take_restarted() {
                Cache { inner: inner.clone() }.history_restarted(own.id());
            }
            let lost = view.take_lost();
            if !lost.is_empty() {
                let cache = Cache { inner: inner.clone() };
                cache.lost(own.id(), lost);
            }
            if let Some((asked, version)) = view.take_committed() {
                own.level.raise(&version);
                Cache { inner }.snapshot_kept(own.id(), Moment(asked), version);
            }
        });
    }

    /// The client is about to be shown this version.
    fn shown(&self, version: &ResourceVersion) {
        self.level.raise(version);
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut StoredView) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        let own = self.clone();
        self.strand
            .run(move |view| {
                view.open_again();
                let done = work(view);
                drop(own);
                done
            })
            .await
    }
}

impl Cache {
    /// A cache over an open store.
    pub fn new(store: Arc<dyn Store>, config: CacheConfig, tasks: Tasks) -> Self {
        let mut names: HashMap<String, BTreeMap<ViewKey, Validated>> = HashMap::new();
        for log in store.logs() {
            if let Some(key) = ViewKey::parse(&log.id.name) {
                names
                    .entry(log.id.owner)
                    .or_default()
                    .insert(key, Validated::default());
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
            slots: Shares::new(RECORDING_SLOTS),
            events: Shares::new(EVENT_BUDGET / 1024),
            waiting: Shares::new(MAX_UNDER_WAY),
            under_way: watch::Sender::new(0),
            confirmed: Mutex::default(),
            forgotten: Counts::default(),
        };
        let cache = Self {
            inner: Arc::new(inner),
        };
        for (owner, names) in names {
            cache.owner_begun(&owner).views.lock().names = names;
        }
        cache
    }

    /// Begins to record a read that is about to be forwarded.
    pub fn record(&self, query: &Query) -> Recording {
        Recording::begin(self, query)
    }

    /// Begins to record a read whose answer has begun to arrive, of a caller who was not known before. Where things stood
    /// when it was sent is not known.
    pub fn record_late(&self, query: &Query) -> Recording {
        Recording::begin_late(self, query)
    }

    /// What the store holds: every principal's views, objects and documents, and the node's own logs. For status.
    pub fn logs(&self) -> Vec<LogSummary> {
        self.inner.store.logs()
    }

    /// What is counted, and how the views are now.
    pub fn stats(&self) -> CacheStats {
        let behind = |owner: &Owner| owner.views.lock().open().filter(|view| view.is_behind()).count();
        CacheStats {
            evicted_objects: self.inner.forgotten.evicted.load(Ordering::Relaxed),
            unwritten_objects: self.inner.forgotten.unwritten.load(Ordering::Relaxed),
            views_behind: self.owners().iter().map(|(_, owner)| behind(owner)).sum(),
        }
    }

    /// Waits until everything that was recorded so far is with the store.
    pub async fn settle(&self) {
        let mut under_way = self.inner.under_way.subscribe();
        // What it gives is a lock on the count: not to be held while recordings go on.
        drop(under_way.wait_for(|count| *count == 0).await);
        self.inner.replies.settle().await;
        for (_, owner) in self.owners() {
            // First the objects: a refusal is read there and posted to the views.
            owner.objects.settle().await;
            let views: Vec<ViewHandle> = owner.views.lock().open().cloned().collect();
            for view in views {
                view.strand.settle().await;
            }
        }
    }

    /// Closes what nobody has used for a while, and lets go of views that nothing came of, so that requests for what
    /// does not exist leave nothing behind, and of chains of pages that nobody continues. For a maintenance task.
    pub async fn prune(&self) {
        let expired = self.pages().expire(clock::now());
        // Dropping what is staged touches the disk.
        let _panicked = self.tasks().spawn_blocking(move || drop(expired)).await;
        self.close_idle();
        for (name, owner) in self.owners() {
            owner.high_water.prune();
            self.write_again(&name, &owner).await;
            self.sweep_marks(&name, &owner).await;
            self.sweep_objects(&owner).await;
            if !self.store().holds(&LogId::new(&*name, objects::LOG_NAME)) {
                self.prune_owner(&name, owner).await;
            }
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

    /// Counts an answer of `owner` that has been received but is not with the store yet. `None`: so many wait for the
    /// disk that this one is not kept, or a disk that hangs would fill the memory.
    fn under_way(&self, owner: &str) -> Option<UnderWay> {
        self.counted(owner, None)
    }

    /// The same for one that is still arriving: slow clients must not take all threads.
    fn under_way_slowly(&self, owner: &str) -> Option<UnderWay> {
        let slot = self.inner.slots.try_take(owner, 1);
        if slot.is_none() {
            tracing::warn!(
                owner,
                "too many answers are being received at once, one is not kept"
            );
        }
        slot.and_then(|slot| self.counted(owner, Some(slot)))
    }

    fn counted(&self, owner: &str, slot: Option<Share>) -> Option<UnderWay> {
        let waiting = self.inner.waiting.try_take(owner, 1);
        if waiting.is_none() {
            tracing::debug!(owner, "the disk does not keep up, an answer is not kept");
        }
        self.inner
            .under_way
            .send_modify(|count| *count += usize::from(waiting.is_some()));
        Some(UnderWay {
            cache: self.clone(),
            _waiting: waiting?,
            _slot: slot,
        })
    }

    /// What was deleted or refused cannot be noted, because too much waits for the disk already: none of the owner's
    /// objects and documents may be told any more.
    fn forget_single_answers(&self, owner: &str) {
        let known = self.owner(owner);
        if known.forgetting.swap(true, Ordering::SeqCst) {
            return;
        }
        let (cache, owner) = (self.clone(), Arc::clone(&known));
        known.objects.post(move |objects| {
            owner.forgetting.store(false, Ordering::SeqCst);
            let name = objects.owner().to_owned();
            tracing::warn!(
                owner = name,
                "the disk did not keep up: what is known of single objects is forgotten"
            );
            let all = cache.forget_documents(&name, |_| true);
            if let Err(error) = objects.forget_all().and(all) {
                tracing::error!(owner = name, %error, "withdrawn data could not be removed from disk");
            }
        });
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

    fn source(&self, handover: Handover) -> Source {
        match handover {
            Handover::Whole(chunks) => Source::whole(chunks),
            Handover::Live(pieces) => Source::live(pieces, self.inner.spool.clone()),
        }
    }

    fn owners(&self) -> Vec<(String, Arc<Owner>)> {
        let owners = self.inner.owners.lock();
        owners
            .iter()
            .map(|(name, owner)| (name.clone(), Arc::clone(owner)))
            .collect()
    }

    fn known_owner(&self, owner: &str) -> Option<Arc<Owner>> {
        self.inner.owners.lock().get(owner).cloned()
    }

    fn owner(&self, owner: &str) -> Arc<Owner> {
        let owner = self.owner_begun(owner);
        let opened = owner.objects_used.lock().replace(Used::now(self)).is_none();
        if opened {
            self.bound_objects();
        }
        owner
    }

    fn owner_begun(&self, owner: &str) -> Arc<Owner> {
        let mut owners = self.inner.owners.lock();
        let known = owners.get(owner);
        if let Some(known) = known.filter(|known| !known.objects.is_gone()) {
            return Arc::clone(known);
        }
        let names = known
            .map(|lost| lost.views.lock().names.clone())
            .unwrap_or_default();
        let objects = Strand::spawn(self.tasks(), Objects::new(Arc::clone(self.store()), owner));
        let made = Arc::new(Owner {
            objects,
            objects_used: Mutex::default(),
            forgetting: AtomicBool::new(false),
            high_water: Arc::default(),
            views: Mutex::new(Views::named(names)),
        });
        owners.insert(owner.to_owned(), Arc::clone(&made));
        made
    }

    /// The view of this key, begun if need be.
    fn view(&self, owner: &str, key: &ViewKey) -> ViewHandle {
        let known = self.owner(owner);
        let used = Used::now(self);
        let mut views = known.views.lock();
        if let Some(open) = views.use_open(key, used) {
            return open;
        }
        let id = Arc::new(LogId::new(owner, key.to_text()));
        let level = known.high_water.level(&key.group, &key.resource);
        let validated = views.names.entry(key.clone()).or_default().clone();
        let (publisher, health) = watch::channel(Health::default());
        let strand = Strand::spawn_with(self.tasks(), {
            let (store, id) = (Arc::clone(self.store()), LogId::clone(&id));
            let (high_water, key) = (Arc::clone(&known.high_water), key.clone());
            move || {
                let view = StoredView::open(store, id, validated, publisher);
                if !view.is_unread() {
                    high_water.opened(&key, view.version().as_ref());
                }
                view
            }
        });
        let handle = ViewHandle {
            id,
            strand,
            backlog: Arc::new(Semaphore::new(VIEW_BACKLOG / 1024)),
            withdrawing: Arc::default(),
            late: Arc::default(),
            level,
            cache: Arc::downgrade(&self.inner),
            health,
        };
        views.opened(key.clone(), handle.clone(), used);
        drop(views);
        self.bound_views();
        handle
    }

    /// The view of this key, if there is or may be one.
    fn existing_view(&self, owner: &str, key: &ViewKey) -> Option<ViewHandle> {
        let known = self.owner(owner);
        let exists = known.views.lock().names.contains_key(key);
        exists.then(|| self.view(owner, key))
    }

    /// Every view of an owner that satisfies `wanted`. Each is opened when it is its turn.
    fn views_where(
        &self,
        owner: &str,
        wanted: impl Fn(&ViewKey) -> bool,
    ) -> impl Iterator<Item = (ViewKey, ViewHandle)> {
        let keys: Vec<ViewKey> = self
            .owner(owner)
            .views
            .lock()
            .names
            .keys()
            .filter(|key| wanted(key))
            .cloned()
            .collect();
        let (cache, owner) = (self.clone(), owner.to_owned());
        keys.into_iter().map(move |key| {
            let view = cache.view(&owner, &key);
            (key, view)
        })
    }

    /// The history that one view is part of went back: nothing that the other views of it hold can be resumed or
    /// trusted.
    fn history_restarted(&self, seen_by: &LogId) {
        let Some(witness) = ViewKey::parse(&seen_by.name) else {
            return;
        };
        for (name, owner) in self.owners() {
            let mut closed = Vec::new();
            {
                let views = owner.views.lock();
                let concerned = |key: &ViewKey| shares_history(&witness, key);
                for view in views.open_where(concerned).filter(|view| view.id() != seen_by) {
                    view.post(|view| view.input(Input::HistoryRestarted));
                }
                closed.extend(views.closed_where(concerned).cloned());
            }
            self.forget_history(name.clone(), closed);
            let witness = witness.clone();
            owner
                .high_water
                .restart(|group, resource| concerns(&witness, group, resource));
            owner.objects.post(move |objects| {
                let forgotten = if is_cluster(&witness) {
                    objects.forget_all()
                } else {
                    objects.forget_where(|path| is_of(path, &witness))
                };
                if let Err(error) = forgotten {
                    tracing::error!(owner = %name, %error, "objects of a lost history could not be removed");
                }
            });
        }
    }

    /// The same for views that are closed, one after another: there may be many.
    fn forget_history(&self, owner: String, closed: Vec<ViewKey>) {
        let cache = self.clone();
        self.tasks().spawn("forget-history", async move {
            for key in closed {
                let view = cache.view(&owner, &key);
                let _stopped = view.run(|view| view.input(Input::HistoryRestarted)).await;
            }
        });
    }

    /// A list has become a view: what was removed while it was under way may be in it.
    fn snapshot_kept(&self, id: &LogId, asked: Moment, version: ResourceVersion) {
        if let Some(key) = ViewKey::parse(&id.name) {
            let owner = self.owner(&id.owner);
            owner.views.lock().withdrawn.remove(&key.formless());
            owner
                .objects
                .post(move |objects| objects.snapshot(asked, &version, |path| is_of(path, &key)));
        }
    }

    /// Remembers when a document was last received: one that had not changed was not written again.
    fn document_kept(&self, id: &LogId) {
        tracing::debug!(owner = %id.owner, document = %id.name, "document recorded");
        if let Some(key) = documents::name_of(id).and_then(ViewKey::parse) {
            self.owner(&id.owner)
                .views
                .lock()
                .withdrawn
                .remove(&key.formless());
        }
        self.inner.confirmed.lock().insert(id.clone(), clock::wall());
    }

    fn forget_confirmed(&self, id: &LogId) {
        self.inner.confirmed.lock().remove(id);
    }

    /// When a document was last received in this process.
    fn confirmed(&self, id: &LogId) -> Option<SystemTime> {
        self.inner.confirmed.lock().get(id).copied()
    }

    /// Drops every variant of the documents with these names.
    fn forget_documents(&self, owner: &str, is_one: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for log in self.store().logs() {
            if log.id.owner == owner && documents::name_of(&log.id).is_some_and(&is_one) {
                self.store().remove(&log.id)?;
                self.forget_confirmed(&log.id);
            }
        }
        Ok(())
    }
}

/// What the disk says, unless it takes too long.
async fn in_time<T>(answer: impl Future<Output = T>) -> Option<T> {
    let answer = tokio::time::timeout(strand::ANSWER_TIMEOUT, answer).await;
    if answer.is_err() {
        tracing::warn!("the disk does not answer in time, nothing is told from the cache");
    }
    answer.ok()
}

/// Whether a restart of the history that `witness` saw concerns the view of `key`. The core group stands for the whole
/// cluster, but for Events, which may live in an etcd of their own. Any other group may be an aggregated apiserver with
/// versions of its own (a metrics server starts again at every restart): it speaks for itself alone.
fn shares_history(witness: &ViewKey, key: &ViewKey) -> bool {
    concerns(witness, &key.group, &key.resource)
}

fn concerns(witness: &ViewKey, group: &str, resource: &str) -> bool {
    is_cluster(witness) || (witness.group == group && witness.resource == resource)
}

/// Whether a path names an object of the resource of this view.
fn is_of(path: &str, key: &ViewKey) -> bool {
    match RequestInfo::parse(&Method::GET, path.split('?').next().unwrap_or_default(), None) {
        RequestInfo::Resource(named) => named.group == key.group && named.resource == key.resource,
        RequestInfo::NonResource | RequestInfo::Malformed => false,
    }
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

    fn cache() -> Cache {
        let store: Arc<dyn Store> = Arc::new(crate::store::LogStore::memory().unwrap());
        let config = CacheConfig {
            spool: None,
            node_key: NodeKey::from_bytes([0; 32]),
            reviews: Duration::ZERO,
        };
        Cache::new(store, config, Tasks::new())
    }

    #[tokio::test]
    async fn a_disk_that_hangs_does_not_fill_the_memory() {
        let cache = cache();
        let mut waiting: Vec<_> = std::iter::from_fn(|| cache.under_way("a")).collect();
        assert_eq!(waiting.len(), MAX_UNDER_WAY / 2, "one more is not kept");
        assert!(cache.under_way("b").is_some(), "another has its share");
        waiting.pop();
        assert!(cache.under_way("a").is_some(), "there is room again");
        waiting.clear();
        cache.settle().await;
    }

    #[tokio::test]
    async fn what_could_not_be_withdrawn_in_time_is_not_told_any_more() {
        let cache = cache();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let objects = cache.owner("a").objects.clone();
        objects.post(move |objects| {
            let _released = hang.recv();
            objects.withdrawn("/api/v1/nodes/n", Moment(1)).unwrap();
        });
        for _ in 0..3 {
            cache.forget_single_answers("a");
        }
        drop(release);
        cache.settle().await;
        let known = objects.run(|objects| objects.known("/api/v1/nodes/n")).await;
        let nothing = objects::Known::Told {
            removals: Vec::new(),
            kept: Vec::new(),
            lost: Vec::new(),
        };
        assert_eq!(known.unwrap().unwrap(), nothing);
    }
}
