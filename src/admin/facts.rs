//! The parts that are looked at whenever somebody asks how edgehold is.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::proxy::Proxy;
use crate::store::Store;
use crate::tls::Certificates;
use crate::upstream::Link;

use super::problems::{self, Facts, Finding, InMemory};

/// The parts of a running edgehold.
pub struct Observer {
    /// Gone when edgehold stops.
    pub proxy: Weak<Proxy>,
    /// The way to the cloud.
    pub link: Link,
    /// Certificate files.
    pub certificates: Arc<Certificates>,
    /// What is kept.
    pub store: Arc<dyn Store>,
    /// Why the cache is in memory, if it should be on disk.
    pub in_memory: Box<dyn Fn() -> Option<InMemory> + Send + Sync>,
    /// The configured directory of the cache.
    pub cache_path: PathBuf,
    /// What is wrong with the configuration file.
    pub configuration: watch::Receiver<Option<String>>,
    /// When the process started.
    pub started: SystemTime,
}

impl Observer {
    /// All that is wrong at this moment.
    pub(super) fn findings(&self, now: SystemTime) -> Vec<Finding> {
        let proxy = self.proxy.upgrade();
        let refused = proxy.as_ref().map(|proxy| proxy.refused_clients());
        let incidents = proxy.as_ref().map(|proxy| proxy.incidents());
        let cache_path = self.cache_path.display().to_string();
        let configuration = self.configuration.borrow().clone();
        problems::problems(&Facts {
            now,
            link: &self.link.report(),
            certificates: &self.certificates.statuses(),
            refused: &refused.unwrap_or_default(),
            incidents: &incidents.unwrap_or_default(),
            store: self.store.stats(),
            in_memory: (self.in_memory)(),
            cache_path: &cache_path,
            configuration: configuration.as_deref(),
            clock: proxy.as_ref().and_then(|proxy| proxy.clock_offset()),
        })
    }
}
