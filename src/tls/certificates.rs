//! The certificates of the process: loaded, watched, published.
//!
//! Owns which value of each configured file is in use. One writer, the loop of [`Certificates::run`]; readers get
//! immutable snapshots that are replaced only when their content changed. What a file means is `pem`'s, when it is
//! looked at is `schedule`'s, what was taken from it is `item`'s.
//!
//! Until the serving pair, the client CA and, where configured, its lists of revoked certificates have loaded there is no [`ServerMaterial`]: a listener then has
//! nothing to shake hands with and refuses connections. A serving pair without a client CA would take every client
//! for anonymous.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::material::ServerMaterial;
use super::pem::{ClientIdentity, LoadError, PairPaths, PairSource, Roots};
use super::schedule::{Action, Event, Pace, Schedule};
use super::status::CertificateStatus;
use super::trust::ClientTrust;
use crate::runtime::clock;
use crate::runtime::files::{self, Coverage, Entry, FileEvents};

mod item;

use item::{Change, Item, Source, Value};

/// Which files, and how often they are looked at.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pair that the listeners serve with.
    pub serving: PairSource,
    /// Served with while `serving` does not exist: before the cluster has issued it.
    pub serving_before: Option<PairPaths>,
    /// The authorities of client certificates.
    pub client_ca: PathBuf,
    /// More of them, if the file is there: from the cluster.
    pub client_ca_more: Option<PathBuf>,
    /// The lists of revoked client certificates.
    pub client_crl: Option<PathBuf>,
    /// The authorities of the apiservers; without it nothing upstream is trusted.
    pub upstream_ca: Option<PathBuf>,
    /// More of them, if the file is there: from the cluster.
    pub upstream_ca_more: Option<PathBuf>,
    /// Common name and pair of each configured client. Of a name given twice the first counts.
    pub clients: Vec<(String, PairSource)>,
    /// Between two looks while all is well: 30 min unless configured.
    pub reload_interval: Duration,
    /// Between two looks while a file fails, is expired or not yet valid: 1 s unless configured.
    pub retry_interval: Duration,
}

/// Every configured pair and CA.
pub struct Certificates {
    pace: Pace,
    /// Locked by the one loop that runs; a loop that is started again after a panic goes on with the same values.
    items: Mutex<Vec<Item>>,
    published: Published,
    /// Where the authorities of the apiservers are to be read from now on.
    upstream_ca: watch::Sender<Option<PathBuf>>,
}

struct Published {
    server: watch::Sender<Option<Arc<ServerMaterial>>>,
    upstream: watch::Sender<Option<Arc<Roots>>>,
    clients: HashMap<String, watch::Sender<Option<Arc<ClientIdentity>>>>,
    statuses: watch::Sender<Vec<CertificateStatus>>,
}

impl Certificates {
    /// Loads every file once, blocking for as long as the disk does. A file that is absent or bad is a status, not
    /// an error: the process starts, and takes the file when it comes.
    pub fn bind(config: Config) -> Self {
        let pace = Pace::new(config.reload_interval, config.retry_interval);
        let mut items: Vec<Item> = sources(config)
            .into_iter()
            .map(|source| Item::new(source, clock::wall()))
            .collect();
        let published = Published::new(&items);
        for item in &mut items {
            let result = item.source().load();
            item.take(result, clock::wall());
        }
        for index in 0..items.len() {
            published.publish(&items, index);
        }
        Self {
            pace,
            items: Mutex::new(items),
            published,
            upstream_ca: watch::Sender::new(None),
        }
    }

    /// From now on the authorities of the apiservers are read from this file. Those in use stay in use until it has
    /// loaded.
    pub fn read_upstream_ca_from(&self, path: PathBuf) {
        self.upstream_ca.send_replace(Some(path));
    }

    /// What a listener needs; `None` until the serving pair, the client CA and, where configured, its CRL have loaded.
    pub fn server_material(&self) -> watch::Receiver<Option<Arc<ServerMaterial>>> {
        self.published.server.subscribe()
    }

    /// The identity of a configured common name, `None` inside while its pair has not loaded; `None` outside if the
    /// name is not configured.
    pub fn client_identity(&self, common_name: &str) -> Option<watch::Receiver<Option<Arc<ClientIdentity>>>> {
        self.published
            .clients
            .get(common_name)
            .map(watch::Sender::subscribe)
    }

    /// The authorities of the apiservers; `None` while not loaded or not configured.
    pub fn upstream_roots(&self) -> watch::Receiver<Option<Arc<Roots>>> {
        self.published.upstream.subscribe()
    }

    /// Every file as of its last look, in the order: serving, client CA, client CRL, upstream CA, clients as configured.
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        self.published.statuses.borrow().clone()
    }

    /// The same, to be told of each look.
    pub fn status_changes(&self) -> watch::Receiver<Vec<CertificateStatus>> {
        self.published.statuses.subscribe()
    }

    /// Keeps the values current until `cancel`. To be awaited by one task; a second one waits for the first to end.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.keep_current(FileEvents::start()) => {}
        }
    }

    async fn keep_current(&self, files: FileEvents) {
        let mut items = self.items.lock().await;
        let mut driver = Driver::start(self.pace, items.len(), files);
        let mut upstream_ca = self.upstream_ca.subscribe();
        upstream_ca.mark_changed();
        loop {
            driver.start_due(&items);
            let wake = driver.next_wake();
            tokio::select! {
                Some(load) = driver.loads.next() => {
                    let index = load.index;
                    if driver.finish(load, &mut items) == Some(Change::Replaced) {
                        self.published.publish(&items, index);
                    }
                    self.published.show(&items, index);
                }
                changed = driver.files.changed() => driver.mark(&changed),
                Ok(()) = upstream_ca.changed() => {
                    let path = upstream_ca.borrow_and_update().clone();
                    if let Some(index) = path.and_then(|path| read_elsewhere(&mut items, path)) {
                        driver.mark(&BTreeSet::from([index]));
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }
}

/// Makes the upstream CA another file's; which item that is.
fn read_elsewhere(items: &mut [Item], path: PathBuf) -> Option<usize> {
    let is_upstream_ca = |item: &Item| matches!(item.source(), Source::UpstreamCa(..));
    let index = items.iter().position(is_upstream_ca)?;
    let item = items.get_mut(index)?;
    if let Source::UpstreamCa(now, more) = item.source()
        && *now != path
    {
        let source = Source::UpstreamCa(path, more.clone());
        *item = Item::new(source, clock::wall());
    }
    Some(index)
}

fn sources(config: Config) -> Vec<Source> {
    let mut sources = vec![
        Source::Serving(config.serving, config.serving_before),
        Source::ClientCa(config.client_ca, config.client_ca_more),
    ];
    sources.extend(config.client_crl.map(Source::ClientCrl));
    let more = config.upstream_ca_more;
    sources.extend(config.upstream_ca.map(|path| Source::UpstreamCa(path, more)));
    let mut names = HashSet::new();
    for (common_name, paths) in config.clients {
        if names.insert(common_name.clone()) {
            sources.push(Source::Client(common_name, paths));
        } else {
            tracing::error!(common_name, "configured twice: only its first pair is used");
        }
    }
    sources
}

impl Published {
    fn new(items: &[Item]) -> Self {
        let names = items.iter().filter_map(|item| match item.source() {
            Source::Client(common_name, _) => Some(common_name.clone()),
            _ => None,
        });
        Self {
            server: watch::Sender::new(None),
            upstream: watch::Sender::new(None),
            clients: names.map(|name| (name, watch::Sender::new(None))).collect(),
            statuses: watch::Sender::new(items.iter().map(|item| item.status().clone()).collect()),
        }
    }

    /// Makes the value of one item visible, if it has one.
    fn publish(&self, items: &[Item], index: usize) {
        self.show(items, index);
        let Some(item) = items.get(index) else { return };
        match (item.source(), item.value()) {
            (Source::Serving(..) | Source::ClientCa(..) | Source::ClientCrl(..), Some(_)) => {
                if let Some(material) = server_material(items) {
                    self.server.send_replace(Some(Arc::new(material)));
                }
            }
            (Source::UpstreamCa(..), Some(Value::Bundle(roots))) => {
                self.upstream.send_replace(Some(Arc::clone(roots)));
            }
            (Source::Client(common_name, _), Some(Value::Pair(pair))) => {
                if let Some(sender) = self.clients.get(common_name) {
                    sender.send_replace(Some(Arc::new(pair.clone().into())));
                }
            }
            _ => {}
        }
    }

    fn show(&self, items: &[Item], index: usize) {
        self.statuses.send_modify(|statuses| {
            if let (Some(shown), Some(item)) = (statuses.get_mut(index), items.get(index)) {
                shown.clone_from(item.status());
            }
        });
    }
}

/// `None` too while configured lists of revoked certificates have never loaded: somebody on them would be let in.
fn server_material(items: &[Item]) -> Option<ServerMaterial> {
    let mut serving = None;
    let mut client_ca = None;
    let (mut listed, mut revoked) = (false, None);
    for item in items {
        match (item.source(), item.value()) {
            (Source::Serving(..), Some(Value::Pair(pair))) => serving = Some(pair.clone()),
            (Source::ClientCa(..), Some(Value::Bundle(roots))) => client_ca = Some(Arc::clone(roots)),
            (Source::ClientCrl(..), value) => {
                listed = true;
                if let Some(Value::Lists(lists)) = value {
                    revoked = Some(Arc::clone(lists));
                }
            }
            _ => {}
        }
    }
    let (serving, client_ca) = (serving?, client_ca?);
    if listed && revoked.is_none() {
        return None;
    }
    match ClientTrust::new(&client_ca, revoked.as_deref()) {
        Ok(clients) => Some(ServerMaterial::new(serving, Arc::new(clients))),
        Err(error) => {
            tracing::warn!(%error, "clients cannot be verified with what has loaded");
            None
        }
    }
}

/// What a load brought.
struct Load {
    index: usize,
    result: Result<(Vec<Entry>, Result<Value, LoadError>), JoinError>,
}

/// The I/O beside the schedules.
struct Driver {
    slots: Vec<(Schedule, Option<Instant>)>,
    files: FileEvents,
    loads: FuturesUnordered<Pin<Box<dyn Future<Output = Load> + Send>>>,
}

impl Driver {
    /// Everything is due at once: what changed since `bind` was not watched.
    fn start(pace: Pace, count: usize, files: FileEvents) -> Self {
        let now = clock::now();
        let slots = vec![(Schedule::new(pace, now), Some(now)); count];
        Self {
            slots,
            files,
            loads: FuturesUnordered::new(),
        }
    }

    /// The next moment at which a file is due; far away while all loads are under way.
    fn next_wake(&self) -> Instant {
        let far = clock::now() + Duration::from_secs(3600);
        self.slots
            .iter()
            .filter_map(|(_, wake)| *wake)
            .min()
            .unwrap_or(far)
    }

    fn start_due(&mut self, items: &[Item]) {
        let now = clock::now();
        for (index, item) in items.iter().enumerate() {
            let due = self
                .slots
                .get(index)
                .is_some_and(|(_, wake)| wake.is_some_and(|wake| wake <= now));
            if due && self.step(index, Event::Tick) == Some(Action::Load) {
                self.loads.push(Box::pin(load(index, item.source().clone())));
            }
        }
    }

    fn mark(&mut self, changed: &BTreeSet<usize>) {
        for index in changed {
            self.step(*index, Event::Changed);
        }
    }

    fn finish(&mut self, load: Load, items: &mut [Item]) -> Option<Change> {
        let item = items.get_mut(load.index)?;
        let (coverage, result) = match load.result {
            Ok((entries, result)) => (self.files.follow(load.index, entries), result),
            Err(_) => (
                Coverage::Kept,
                Err(LoadError::Interrupted {
                    path: item.status().path.clone(),
                }),
            ),
        };
        let taken = item.take(result, clock::wall());
        self.step(load.index, Event::Finished(taken.verdict));
        if coverage == Coverage::Extended {
            // It may have changed between the look and the first watch.
            self.step(load.index, Event::Changed);
        }
        Some(taken.change)
    }

    fn step(&mut self, index: usize, event: Event) -> Option<Action> {
        let (schedule, wake) = self.slots.get_mut(index)?;
        let (next, action) = schedule.step(event, clock::now());
        *schedule = next;
        *wake = match action {
            Action::WakeAt(at) => Some(at),
            Action::Load | Action::Wait => None,
        };
        Some(action)
    }
}

async fn load(index: usize, source: Source) -> Load {
    let looked = tokio::task::spawn_blocking(move || {
        // The way first: a link that is swapped between the two is then heard of.
        let entries = source.paths().into_iter().flat_map(files::entries).collect();
        (entries, source.load())
    });
    Load {
        index,
        result: looked.await,
    }
}

#[cfg(test)]
mod tests;
