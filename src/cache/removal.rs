//! Word that objects are gone: placed among what the principal has been shown, then recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Method;

use crate::kube::request::{RequestInfo, ResourceRequest, is_plain_name};
use crate::store::LogId;
use crate::view::derive::{self, ObjectName};
use crate::view::key::ViewKey;

use super::answer::{object_key, object_name};
use super::collection::{Lost, StoredView, Why};
use super::objects::{Asked, Moment, OldMark, OldObject, Origin, Removed, Rest};
use super::{Cache, Objects, Owner, UnderWay, ViewHandle};

impl Cache {
    /// A request about an object or a collection is about to be sent: what has been shown so far is older than its answer.
    pub(super) fn asked(&self, owner: &str, resource: &ResourceRequest, origin: Origin) -> Asked {
        let level = self
            .owner(owner)
            .high_water
            .level(&resource.group, &resource.resource);
        Asked {
            origin,
            sent: Moment(self.next_number()),
            shown: level.shown(),
            level,
        }
    }

    /// Whether some view of this principal may hold the object that is named here, or objects of the collection.
    pub(super) fn is_viewed(&self, owner: &str, resource: &ResourceRequest) -> bool {
        let known = self.owner(owner);
        let views = known.views.lock();
        views.names.keys().any(|key| may_hold(key, resource))
    }

    /// Gives up what is known of the objects of a collection.
    pub(super) fn forget_collection(&self, owner: &str, resource: &ResourceRequest, path: &str) {
        let path = path.to_owned();
        self.owner(owner).objects.post(move |objects| {
            if let Err(error) = objects.forget_below(&path) {
                tracing::error!(%path, %error, "deleted objects could not be forgotten");
            }
        });
        for (_, view) in self.views_where(owner, |key| may_hold(key, resource)) {
            view.withdraw();
        }
    }

    /// Records removals in what `resource` names. First each view that may hold such an object is opened, if it has not
    /// been in this process: what it shows was shown before.
    pub(super) fn record_removals(
        &self,
        (owner, resource): (&str, &ResourceRequest),
        removed: Vec<Removed>,
        under_way: UnderWay,
    ) {
        let known = self.owner(owner);
        let unopened: Vec<ViewHandle> = self
            .views_where(owner, |key| {
                may_hold(key, resource) && !known.high_water.has_opened(key)
            })
            .map(|(_, view)| view)
            .collect();
        let record = move |objects: &mut Objects| {
            let _until_done = under_way;
            for removed in &removed {
                objects.remove(removed);
            }
        };
        if unopened.is_empty() {
            return known.objects.post(record);
        }
        self.tasks().spawn("removal", async move {
            for view in unopened {
                let _stopped = view.run(|_| ()).await;
            }
            known.objects.post(record);
        });
    }

    /// Clients of this view were shown these objects, and it does not hold them. What a complete one held and lost is gone, and it
    /// says so itself; what a selected one lost may exist, and what one that lags was not told of may have become anything.
    /// That it was shown is remembered where anything else is known that may be older.
    pub(super) fn lost(&self, id: &LogId, mut lost: Vec<Lost>) {
        let Some(own) = ViewKey::parse(&id.name) else {
            return;
        };
        lost.retain(|lost| lost.why == Why::Behind || !own.is_complete());
        if lost.is_empty() {
            return;
        }
        let known = self.owner(&id.owner);
        let views: Vec<ViewKey> = known.views.lock().names.keys().cloned().collect();
        let recorded = Moment(self.next_number());
        known.objects.post(move |objects| {
            for Lost { key, seen, why } in lost {
                let name = named(&own, &key);
                if !is_plain_name(name.name) {
                    // No path names it, so nobody is told of it by name.
                    continue;
                }
                let tells = |view: &ViewKey| why == Why::Behind || *view != own;
                let is_told_elsewhere = views
                    .iter()
                    .any(|view| tells(view) && derive::may_hold(view, &name));
                objects.lost(&own.path_of(&key), seen, recorded, is_told_elsewhere);
            }
        });
    }

    /// Lets the oldest marks of a principal go if there are too many, but for those of objects that a view still shows.
    pub(super) async fn sweep_marks(&self, name: &str, owner: &Owner) {
        let old = match owner.objects.run(Objects::old_marks).await {
            Ok(Ok(old)) if !old.is_empty() => old,
            _ => return,
        };
        let mut collections: BTreeMap<[String; 2], Vec<String>> = BTreeMap::new();
        for (collection, item) in old.iter().filter_map(|mark| item_of(mark.path())) {
            collections.entry(collection).or_default().push(item);
        }
        let mut held: BTreeSet<([String; 2], String)> = BTreeSet::new();
        for (key, view) in self.views_where(name, |key| collections.contains_key(&collection_of(key))) {
            let collection = collection_of(&key);
            let items = collections.get(&collection).cloned().unwrap_or_default();
            let Ok(shown) = view.run(move |view| view.held(items)).await else {
                // What it holds is not known.
                return;
            };
            held.extend(shown.into_iter().map(|item| (collection.clone(), item)));
        }
        let is_needed = |mark: &OldMark| item_of(mark.path()).is_some_and(|item| held.contains(&item));
        let gone: Vec<OldMark> = old.into_iter().filter(|mark| !is_needed(mark)).collect();
        owner.objects.post(move |objects| {
            if let Err(error) = objects.drop_marks(&gone) {
                tracing::warn!(%error, "old marks of single objects could not be removed");
            }
        });
    }

    /// Lets the objects of a principal go that are too many. What views hold is not among them.
    pub(super) async fn sweep_objects(&self, owner: &Arc<Owner>) {
        let old = match owner.objects.run(Objects::old_objects).await {
            Ok(Ok(old)) if !old.is_empty() => old,
            _ => return,
        };
        let views: Vec<ViewKey> = owner.views.lock().names.keys().cloned().collect();
        let is_told_elsewhere =
            |object: &OldObject| match RequestInfo::parse(&Method::GET, &object.path, None) {
                RequestInfo::Resource(resource) if resource.subresource.is_empty() => {
                    let name = object_name(&resource);
                    views.iter().any(|view| derive::may_hold(view, &name))
                }
                _ => false,
            };
        let old: Vec<(OldObject, bool)> = old
            .into_iter()
            .map(|object| {
                let told = is_told_elsewhere(&object);
                (object, told)
            })
            .collect();
        let cache = self.clone();
        owner.objects.post(move |objects| {
            let mut gone = 0;
            for (object, is_told_elsewhere) in &old {
                match objects.let_go(object, *is_told_elsewhere) {
                    Ok(went) => gone += u64::from(went),
                    Err(error) => {
                        tracing::warn!(%error, "objects that are too many could not be removed");
                        break;
                    }
                }
            }
            tracing::debug!(
                owner = objects.owner(),
                gone,
                "objects were let go: they were too many"
            );
            cache.inner.forgotten.evicted.fetch_add(gone, Ordering::Relaxed);
        });
    }

    /// Writes down what the disk did not take before. Where it is not known of how much it was not told, all goes that may be
    /// outdated: what is known object by object, and the views.
    pub(super) async fn write_again(&self, name: &str, owner: &Owner) {
        if !matches!(
            owner.objects.run(Objects::write_again).await,
            Ok(Ok(Rest::Overrun))
        ) {
            return;
        }
        for (_, view) in self.views_where(name, |_| true) {
            if view.run(StoredView::withdraw).await.is_err() {
                return;
            }
        }
        if let Ok(Ok(beyond)) = owner.objects.run(Objects::start_over).await {
            tracing::warn!(
                owner = name,
                beyond,
                "the disk works again: what may be outdated was forgotten"
            );
            self.inner
                .forgotten
                .unwritten
                .fetch_add(beyond, Ordering::Relaxed);
        }
    }

    /// Too much waits for the disk to note a removal: what it may concern is not told any more.
    pub(super) fn removal_overrun(&self, owner: &str, resource: &ResourceRequest) {
        self.forget_single_answers(owner);
        for (_, view) in self.views_where(owner, |key| may_hold(key, resource)) {
            view.withdraw();
        }
    }
}

/// The name of an item of a view.
fn named<'a>(key: &'a ViewKey, item: &'a str) -> ObjectName<'a> {
    let (namespace, name) = item
        .split_once('/')
        .map_or((None, item), |(namespace, name)| (Some(namespace), name));
    ObjectName {
        group: &key.group,
        resource: &key.resource,
        namespace,
        name,
    }
}

/// Group and resource of a view.
fn collection_of(key: &ViewKey) -> [String; 2] {
    [key.group.clone(), key.resource.clone()]
}

/// Group and resource of what a path names, and its key in a view.
fn item_of(path: &str) -> Option<([String; 2], String)> {
    match RequestInfo::parse(&Method::GET, path, None) {
        RequestInfo::Resource(resource) => {
            let item = object_key(&resource);
            Some(([resource.group.clone(), resource.resource.clone()], item))
        }
        RequestInfo::NonResource | RequestInfo::Malformed => None,
    }
}

fn may_hold(key: &ViewKey, resource: &ResourceRequest) -> bool {
    if !resource.name.is_empty() {
        return derive::may_hold(key, &object_name(resource));
    }
    let in_scope = resource.namespace.is_empty()
        || key
            .namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == resource.namespace);
    in_scope && key.group == resource.group && key.resource == resource.resource
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Uri};
    use http_body_util::BodyExt;

    use super::*;
    use crate::cache::objects::{Answered, MARKS, OBJECTS, OBJECTS_SLACK, SLACK, UNWRITTEN};
    use crate::cache::{Answer, CacheConfig, Query};
    use crate::identity::NodeKey;
    use crate::kube::media::{Encoding, Representation};
    use crate::kube::version::ResourceVersion;
    use crate::runtime::body;
    use crate::runtime::tasks::Tasks;
    use crate::store::tests::on;
    use crate::store::tests::sim::{Fault, Sim};
    use crate::store::{LogStore, Quota, Store, Worth};
    use crate::view::newest::Outcome;

    const OWNER: &str = "cn:x";
    const LIST: &str = "/api/v1/namespaces/shop/configmaps";

    fn cache() -> Cache {
        cache_on(Arc::new(LogStore::memory().unwrap()))
    }

    fn cache_on(store: Arc<LogStore>) -> Cache {
        let config = CacheConfig {
            spool: None,
            node_key: NodeKey::from_bytes([0; 32]),
            reviews: Duration::ZERO,
        };
        Cache::new(store, config, Tasks::new())
    }

    fn query(target: &str) -> Query {
        let uri: Uri = target.parse().unwrap();
        let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
        let class = info.class(&Method::GET);
        Query::new(OWNER, &Method::GET, &uri, &HeaderMap::new(), &info, class).unwrap()
    }

    /// A list whose only object is `held`, as it was at version 4.
    async fn listed(cache: &Cache, version: u32) {
        let recording = cache.record(&query(LIST));
        let held = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"held","namespace":"shop","uid":"u","resourceVersion":"4"}}"#;
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}"}},"items":[{held}]}}"#
        );
        let response = http::Response::builder()
            .header("content-type", "application/json")
            .header("audit-id", "1");
        let (head, ()) = response.body(()).unwrap().into_parts();
        recording
            .answered(&head, body::full(list))
            .collect()
            .await
            .unwrap();
        cache.settle().await;
    }

    fn removed(cache: &Cache, name: &str, outcome: Outcome) {
        let path = format!("{LIST}/{name}");
        let RequestInfo::Resource(resource) = RequestInfo::parse(&Method::GET, &path, None) else {
            panic!("{path}")
        };
        let removed = Removed {
            path,
            outcome,
            uid: String::new(),
            asked: cache.asked(OWNER, &resource, Origin::Read),
            recorded: Moment(cache.next_number()),
        };
        let objects = &cache.owner(OWNER).objects;
        objects.post(move |objects| objects.remove(&removed));
    }

    /// The status that is told of an object; 503 for nothing.
    async fn told(cache: &Cache, name: &str) -> u16 {
        match cache.answer(&query(&format!("{LIST}/{name}"))).await {
            Answer::Found(found) => found.status.as_u16(),
            Answer::Refused(_) => 404,
            Answer::Unknown(_) => 503,
        }
    }

    #[tokio::test]
    async fn old_marks_go_and_nothing_older_is_told_without_them() {
        let cache = cache();
        listed(&cache, 10).await;
        // A watch in another form tells of version 50.
        let level = cache.owner(OWNER).high_water.level("", "configmaps");
        level.raise(&ResourceVersion::new("50").unwrap());
        removed(&cache, "held", Outcome::Gone);
        removed(&cache, "unclear", Outcome::Unclear);
        for n in 0..MARKS + SLACK {
            removed(&cache, &format!("n{n}"), Outcome::Gone);
        }
        let marks = async || {
            let objects = cache.owner(OWNER).objects.clone();
            objects.run(|objects| objects.marks()).await.unwrap()
        };
        assert_eq!(marks().await, MARKS + SLACK + 2);
        for name in ["held", "n0"] {
            assert_eq!(told(&cache, name).await, 404, "{name}");
        }
        assert_eq!(told(&cache, "unclear").await, 503);

        cache.prune().await;
        cache.settle().await;
        assert_eq!(
            marks().await,
            MARKS + 1,
            "the latest, and what the view still shows"
        );
        assert_eq!(told(&cache, "held").await, 404);
        let last = format!("n{}", MARKS + SLACK - 1);
        assert_eq!(told(&cache, &last).await, 404);
        // The view, which is of before, may not say that there never was one.
        assert_eq!(told(&cache, "unclear").await, 503);
        listed(&cache, 60).await;
        assert_eq!(told(&cache, "unclear").await, 404);
        assert_eq!(told(&cache, "n0").await, 404);
    }

    const V1: &str = "/apis/apps/v1/namespaces/shop/deployments";
    const BETA: &str = "/apis/apps/v1beta1/namespaces/shop/deployments";

    /// The cloud answers a read.
    async fn read(cache: &Cache, target: &str, status: u16, body: String) {
        let recording = cache.record(&query(target));
        let response = http::Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("audit-id", "1");
        let (head, ()) = response.body(()).unwrap().into_parts();
        let body = recording.answered(&head, body::full(body));
        body.collect().await.unwrap();
        cache.settle().await;
    }

    fn deployment(api_version: &str, version: u32) -> String {
        format!(
            r#"{{"apiVersion":"apps/{api_version}","kind":"Deployment","metadata":{{"name":"a","namespace":"shop","uid":"u{version}","resourceVersion":"{version}"}}}}"#
        )
    }

    fn deployments(api_version: &str, items: &str, version: u32) -> String {
        format!(
            r#"{{"apiVersion":"apps/{api_version}","kind":"DeploymentList","metadata":{{"resourceVersion":"{version}"}},"items":[{items}]}}"#
        )
    }

    const MISSING: &str =
        r#"{"apiVersion":"v1","kind":"Status","status":"Failure","code":404,"details":{"name":"a"}}"#;

    async fn status(cache: &Cache, target: &str) -> u16 {
        match cache.answer(&query(target)).await {
            Answer::Found(found) => found.status.as_u16(),
            Answer::Refused(_) => 404,
            Answer::Unknown(_) => 503,
        }
    }

    #[tokio::test]
    async fn what_is_learned_of_an_object_in_one_api_version_counts_in_all() {
        for is_again in [false, true] {
            let store = Arc::new(LogStore::memory().unwrap());
            let cache = cache_on(Arc::clone(&store));
            let [one, other] = [format!("{V1}/a"), format!("{BETA}/a")];
            read(&cache, &other, 200, deployment("v1beta1", 5)).await;
            assert_eq!(status(&cache, &other).await, 200);
            assert_eq!(status(&cache, &one).await, 503, "it was not read so");
            read(&cache, &one, 404, MISSING.to_owned()).await;
            let cache = if is_again { cache_on(store) } else { cache };
            for target in [&one, &other] {
                assert_eq!(status(&cache, target).await, 404, "{target}");
            }
            // It is made anew.
            read(&cache, &other, 200, deployment("v1beta1", 9)).await;
            assert_eq!(status(&cache, &other).await, 200);
            assert_eq!(status(&cache, &one).await, 503);
            // In the other version it is newer.
            read(&cache, &one, 200, deployment("v1", 12)).await;
            assert_eq!(status(&cache, &one).await, 200);
            assert_eq!(status(&cache, &other).await, 503);
        }
    }

    #[tokio::test]
    async fn views_of_one_api_version_count_in_all() {
        let cache = cache();
        let [one, other] = [format!("{V1}/a"), format!("{BETA}/a")];
        read(
            &cache,
            BETA,
            200,
            deployments("v1beta1", &deployment("v1beta1", 5), 6),
        )
        .await;
        assert_eq!(status(&cache, &other).await, 200);
        read(&cache, V1, 200, deployments("v1", &deployment("v1", 8), 9)).await;
        assert_eq!(status(&cache, &one).await, 200);
        assert_eq!(status(&cache, &other).await, 503, "it has changed");
        assert_eq!(status(&cache, BETA).await, 200, "a list is of its moment");
        read(&cache, V1, 200, deployments("v1", "", 11)).await;
        for target in [&one, &other] {
            assert_eq!(status(&cache, target).await, 404, "{target}");
        }
        // Of another resource nothing is known.
        assert_eq!(
            status(&cache, "/apis/apps/v1/namespaces/shop/daemonsets/a").await,
            503
        );
    }

    #[tokio::test]
    async fn objects_beyond_the_bound_go_and_nothing_older_is_told_without_them() {
        let cache = cache();
        let in_use = format!("{LIST}/in-use");
        let named = |name: &str, version: usize| {
            format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"shop","uid":"u","resourceVersion":"{version}"}}}}"#
            )
        };
        listed(&cache, 10).await;
        // Newer than in the list.
        read(&cache, &format!("{LIST}/held"), 200, named("held", 20)).await;
        read(&cache, &format!("{LIST}/early"), 200, named("early", 21)).await;
        for _ in 0..2 {
            read(&cache, &in_use, 200, named("in-use", 22)).await;
        }
        let objects = cache.owner(OWNER).objects.clone();
        let answers: Vec<_> = (0..OBJECTS + OBJECTS_SLACK)
            .map(|n| {
                let name = format!("n{n}");
                let path = format!("{LIST}/{name}");
                let RequestInfo::Resource(resource) = RequestInfo::parse(&Method::GET, &path, None) else {
                    panic!("{path}")
                };
                Answered {
                    body: named(&name, 100 + n).into_bytes(),
                    representation: Representation::full(Encoding::Json),
                    asked: cache.asked(OWNER, &resource, Origin::Read),
                    recorded: Moment(cache.next_number()),
                    path,
                }
            })
            .collect();
        objects
            .run(move |objects| answers.iter().for_each(|answered| objects.keep(answered)))
            .await
            .unwrap();
        assert_eq!(told(&cache, "n0").await, 200);
        cache.prune().await;
        cache.settle().await;
        assert_eq!(cache.stats().evicted_objects, OBJECTS_SLACK as u64 + 3);
        assert_eq!(told(&cache, "in-use").await, 200, "it is in use");
        assert_eq!(told(&cache, "n0").await, 200, "it was used last");
        // The view, which is older, tells neither what it was nor that it never was.
        assert_eq!(told(&cache, "held").await, 503);
        assert_eq!(told(&cache, "early").await, 503);
        let last = format!("n{}", OBJECTS + OBJECTS_SLACK - 1);
        assert_eq!(told(&cache, &last).await, 200);
        listed(&cache, 20_000).await;
        assert_eq!(told(&cache, "early").await, 404);
    }

    #[tokio::test]
    async fn what_the_disk_is_not_told_is_remembered_up_to_a_bound_and_nothing_is_told_beyond() {
        for count in [UNWRITTEN, UNWRITTEN + 1] {
            let sim = Sim::new(Fault::Never);
            let store = Arc::new(on(&sim));
            let cache = cache_on(Arc::clone(&store));
            let target = |n: usize| format!("{LIST}/n{n}");
            for n in 0..count {
                let body = format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"n{n}","namespace":"shop","resourceVersion":"14"}}}}"#
                );
                read(&cache, &target(n), 200, body).await;
            }
            listed(&cache, 10).await;
            sim.fail();
            for n in 0..count {
                removed(&cache, &format!("n{n}"), Outcome::Gone);
            }
            cache.settle().await;
            let is_beyond = count > UNWRITTEN;
            let last = target(count - 1);
            for target in [&target(0), &last] {
                // Never 200: it is gone.
                assert_eq!(
                    status(&cache, target).await,
                    if is_beyond { 503 } else { 404 },
                    "{target}"
                );
            }
            cache.prune().await;
            assert_eq!(status(&cache, &last).await, if is_beyond { 503 } else { 404 });
            sim.repair();
            // A log that failed in the middle of a record takes nothing before it is rewritten.
            store.compact_due().unwrap();
            cache.prune().await;
            cache.settle().await;
            assert_eq!(cache.stats().unwritten_objects, u64::from(is_beyond));
            // What it was told late is there for the next process; all else was forgotten.
            let again = cache_on(Arc::clone(&store));
            for cache in [&cache, &again] {
                for target in [&target(0), &last] {
                    assert_eq!(
                        status(cache, target).await,
                        if is_beyond { 503 } else { 404 },
                        "{target}"
                    );
                }
            }
            assert_eq!(told(&cache, "held").await, if is_beyond { 503 } else { 200 });
            listed(&cache, 20).await;
            assert_eq!(told(&cache, "held").await, 200);
            assert_eq!(status(&cache, &last).await, 404);
        }
    }

    #[tokio::test]
    async fn an_evicted_view_leaves_nothing_behind() {
        let cache = cache();
        listed(&cache, 10).await;
        let owner = cache.owner(OWNER);
        assert_eq!(
            (owner.views.lock().names.len(), owner.high_water.opened_count()),
            (1, 1)
        );
        let quota = Quota {
            max_bytes: 0,
            max_idle: 0,
        };
        let removed = cache.enforce(quota, &|_| Worth::Spare);
        assert_eq!(removed.len(), 1);
        assert_eq!(
            (owner.views.lock().names.len(), owner.high_water.opened_count()),
            (0, 0)
        );
        assert_eq!(told(&cache, "held").await, 503);
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // it plays a disk that fails
    async fn a_view_that_could_not_be_opened_is_opened_once_that_works() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = Arc::new(LogStore::open(&root).unwrap());
        let cache = cache_on(Arc::clone(&store));
        listed(&cache, 10).await;
        drop(cache);
        let is_closed = async {
            while Arc::strong_count(&store) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_closed)
            .await
            .expect("the strands end");
        let owners = std::fs::read_dir(&root)
            .unwrap()
            .filter_map(|owner| std::fs::read_dir(owner.unwrap().path()).ok());
        let logs: Vec<_> = owners.flatten().map(|log| log.unwrap().path()).collect();
        assert!(!logs.is_empty());
        for log in &logs {
            let aside = log.with_extension("aside");
            std::fs::rename(log, &aside).unwrap();
            // What is no file of its own is not opened.
            std::os::unix::fs::symlink(&aside, log).unwrap();
        }
        let cache = cache_on(Arc::clone(&store));
        assert_eq!(told(&cache, "held").await, 503);
        for log in &logs {
            std::fs::rename(log.with_extension("aside"), log).unwrap();
        }
        assert_eq!(told(&cache, "held").await, 200);
    }
}
