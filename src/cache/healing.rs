//! What it takes to make a view whole that has lost its place while its client watches: to hear of it, and to record the list
//! that heals it.

use tokio::sync::{oneshot, watch};

use crate::kube::media::Representation;
use crate::store::LogId;
use crate::view::machine::Condition;

use super::health::Health;
use super::query::{Query, Target, view_key};
use super::recording::Recording;
use super::{Cache, ViewHandle};

/// The view of a live watch, and whether it follows what the client watches. Cheap to clone.
#[derive(Clone)]
pub struct Followed {
    view: ViewHandle,
    representation: Representation,
    health: watch::Receiver<Health>,
    /// Of which loss was heard last.
    heard: u64,
}

/// Tells when a list has become the view, or will not.
pub struct Kept(oneshot::Receiver<()>);

impl Followed {
    pub(super) fn new(view: ViewHandle, representation: Representation) -> Self {
        let health = view.health.clone();
        Self {
            view,
            representation,
            health,
            // A view may be lost from the first.
            heard: 0,
        }
    }

    /// Which view.
    pub fn id(&self) -> &LogId {
        self.view.id()
    }

    /// How it is now.
    pub fn condition(&self) -> Condition {
        self.health.borrow().condition
    }

    /// Waits until the view follows no more. Each time once; it may be dropped and asked again.
    pub async fn lost(&mut self) {
        let heard = self.heard;
        let is_news = |health: &Health| health.condition != Condition::Followed && health.losses != heard;
        // What it gives is a lock on the condition: not to be held.
        let losses = self.health.wait_for(is_news).await.map(|health| health.losses);
        let Ok(losses) = losses else {
            // It has come to an end, with whatever was to be done for it.
            return std::future::pending().await;
        };
        self.heard = losses;
    }

    /// Waits until the view is so.
    pub async fn becomes(&self, mut wanted: impl FnMut(Condition) -> bool) {
        let mut health = self.health.clone();
        // What it gives is a lock on the condition: not to be held.
        drop(health.wait_for(|health| wanted(health.condition)).await);
    }

    /// Begins to record the list that is to make the view whole; it is to be sent after this. Nobody reads its body but for the
    /// record, so that a slow disk is waited for. `None`: this is no list of what the view holds.
    pub fn record_list(&self, cache: &Cache, query: &Query) -> Option<(Recording, Kept)> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let options = &resource.options;
        let is_whole = options.limit == 0 && options.continue_token.is_empty();
        let is_latest = options.resource_version.is_none() && options.resource_version_match.is_empty();
        let is_same = query.owner == self.id().owner
            && view_key(resource, &self.representation).to_text() == self.id().name;
        if options.watch || !is_whole || !is_latest || !is_same {
            return None;
        }
        let (recording, kept) = Recording::begin_for(cache, query, resource, self.view.clone());
        Some((recording, Kept(kept)))
    }
}

impl Kept {
    /// Waits until the view has taken the list, or it is certain that it will not.
    pub async fn settled(self) {
        // Dropped: it was given up.
        let _given_up = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::{HeaderMap, Method, Uri};
    use http_body_util::BodyExt;

    use super::*;
    use crate::cache::{Answer, CacheConfig, VIEW_BACKLOG, WatchRecording};
    use crate::identity::NodeKey;
    use crate::kube::media::Encoding;
    use crate::kube::request::RequestInfo;
    use crate::runtime::body;
    use crate::runtime::tasks::Tasks;
    use crate::wire::watch::read_event;

    fn cache() -> Cache {
        let config = CacheConfig {
            spool: None,
            node_key: NodeKey::from_bytes([0; 32]),
            reviews: Duration::ZERO,
        };
        Cache::new(
            Arc::new(crate::store::LogStore::memory().unwrap()),
            config,
            Tasks::new(),
        )
    }

    fn query(target: &str) -> Query {
        let uri: Uri = target.parse().unwrap();
        let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
        let class = info.class(&Method::GET);
        Query::new("cn:x", &Method::GET, &uri, &HeaderMap::new(), &info, class).unwrap()
    }

    async fn event(watch: &mut WatchRecording, name: &str, version: u32) {
        let object = object(name, version);
        let frame = format!("{{\"type\":\"ADDED\",\"object\":{object}}}");
        let event = read_event(Encoding::Json, frame.as_bytes()).unwrap();
        watch.event(&event, frame.len()).await;
    }

    fn object(name: &str, version: u32) -> String {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\",\"resourceVersion\":\"{version}\"}}}}"
        )
    }

    /// Upstream answers the list that heals a view.
    async fn answered(begun: (Recording, Kept), items: &[String], version: u32) {
        let (recording, kept) = begun;
        let list = format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"metadata\":{{\"resourceVersion\":\"{version}\"}},\"items\":[{}]}}",
            items.join(",")
        );
        let response = http::Response::builder()
            .header("content-type", "application/json")
            .header("audit-id", "1");
        let (head, ()) = response.body(()).unwrap().into_parts();
        let body = recording.answered(&head, body::full(list));
        body.collect().await.unwrap();
        kept.settled().await;
    }

    async fn content(cache: &Cache) -> String {
        let Answer::Found(found) = cache.answer(&query("/api/v1/pods")).await else {
            panic!("no view")
        };
        let bytes = found.body.collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn events_that_found_no_room_are_made_up_for_by_a_list() {
        let cache = cache();
        let watch = query("/api/v1/pods?watch=1&resourceVersion=5");
        let list = query("/api/v1/pods");
        let recording = cache.record_watch(&watch);
        let mut recording = cache
            .confirm_watch(&watch, recording, "application/json")
            .unwrap();
        let mut view = recording.followed();
        view.lost().await;
        assert_eq!(view.condition(), Condition::Lost, "there is none");
        let begun = view.record_list(&cache, &list).unwrap();
        answered(begun, &[object("a", 4)], 5).await;
        assert_eq!(view.condition(), Condition::Followed);
        event(&mut recording, "b", 6).await;
        assert!(content(&cache).await.contains("\"b\""));
        let one = query("/api/v1/pods/b");
        assert!(matches!(cache.answer(&one).await, Answer::Found(_)));

        // The disk hangs, and takes all the room that there is.
        let all = u32::try_from(VIEW_BACKLOG / 1024).unwrap();
        let taken = view.view.backlog.clone().acquire_many_owned(all).await.unwrap();
        event(&mut recording, "c", 7).await;
        event(&mut recording, "d", 8).await;
        drop(taken);
        view.lost().await;
        event(&mut recording, "e", 9).await;
        let now = content(&cache).await;
        assert!(
            now.contains("\"6\"") && !now.contains("\"e\""),
            "whole, at its moment: {now}"
        );
        // The client may have been told of a newer one.
        let one = query("/api/v1/pods/b");
        assert!(matches!(cache.answer(&one).await, Answer::Unknown(_)));

        let begun = view.record_list(&cache, &list).unwrap();
        event(&mut recording, "f", 10).await;
        let items = ["a", "b", "c", "d", "e"].map(|name| object(name, 4));
        answered(begun, &items, 9).await;
        assert_eq!(view.condition(), Condition::Followed);
        assert!(
            matches!(cache.answer(&one).await, Answer::Found(_)),
            "it is whole"
        );
        event(&mut recording, "g", 11).await;
        let now = content(&cache).await;
        assert!(
            ["d", "f", "g"]
                .iter()
                .all(|name| now.contains(&format!("\"{name}\""))),
            "{now}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_opened_while_its_view_is_stuck_is_made_up_for_once_the_disk_works() {
        let cache = cache();
        let list = query("/api/v1/pods");
        let watch = query("/api/v1/pods?watch=1&resourceVersion=5");
        let ended = cache.record_watch(&watch).unwrap();
        let mut first = ended.followed();
        first.lost().await;
        answered(first.record_list(&cache, &list).unwrap(), &[object("a", 4)], 5).await;
        drop(ended);
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let (begun, hangs) = oneshot::channel();
        first.view.post(move |_| {
            let _told = begun.send(());
            let _released = hang.recv();
        });
        hangs.await.unwrap();
        tokio::time::advance(crate::runtime::strand::ANSWER_TIMEOUT).await;
        assert!(first.view.is_stuck());

        let recording = cache.record_watch(&watch);
        let mut recording = cache
            .confirm_watch(&watch, recording, "application/json")
            .unwrap();
        // However many begin and end meanwhile, they leave no work behind.
        for _ in 0..100 {
            drop(cache.record_watch(&watch));
        }
        event(&mut recording, "b", 6).await;
        let late = Arc::clone(&first.view.late);
        assert_eq!(late.lock().streams.len(), 1);
        drop(release);
        // Nothing need happen before the view is known to be behind.
        let mut view = recording.followed();
        view.lost().await;
        assert!(late.lock().streams.is_empty());
        let items = ["a", "b"].map(|name| object(name, 4));
        answered(view.record_list(&cache, &list).unwrap(), &items, 6).await;
        assert_eq!(view.condition(), Condition::Followed);
        event(&mut recording, "c", 7).await;
        let now = content(&cache).await;
        assert!(now.contains("\"c\"") && now.contains("\"7\""), "{now}");
    }

    #[tokio::test]
    async fn only_a_whole_and_consistent_list_of_the_same_view_heals_it() {
        let cache = cache();
        let watch = query("/api/v1/pods?watch=1&resourceVersion=5&labelSelector=a%3Db");
        let view = cache.record_watch(&watch).unwrap().followed();
        let may = |target: &str| view.record_list(&cache, &query(target)).is_some();
        assert!(may("/api/v1/pods?labelSelector=a%3D%3Db"), "another spelling");
        for target in [
            "/api/v1/pods",
            "/api/v1/pods?labelSelector=a%3Db&limit=500",
            "/api/v1/pods?labelSelector=a%3Db&resourceVersion=0",
            "/api/v1/pods?labelSelector=a%3Db&watch=1",
            "/api/v1/namespaces/x/pods?labelSelector=a%3Db",
        ] {
            assert!(!may(target), "{target}");
        }
        let strange = Query {
            owner: "cn:y".to_owned(),
            ..query("/api/v1/pods?labelSelector=a%3Db")
        };
        assert!(view.record_list(&cache, &strange).is_none());
    }
}
