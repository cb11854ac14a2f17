//! Wires every component together: [`App::bind`] does all that can fail, [`App::spawn`] starts it.

mod certificates;
mod clients;
mod descriptors;
mod issuer;
pub(crate) mod logging;
mod maintenance;
mod memory;
mod node;
mod notify;
pub(crate) mod rehearsal;
mod reload;
mod storage;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin;
use crate::cache::{Cache, CacheConfig, StoredIssuer, StoredTokens};
use crate::config::{AdminAddress, Config};
use crate::proxy::{Pace, Parts, Proxy, ProxyMetrics};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::server::{Bound, Listener, ListenerConfig, ServerMetrics};
use crate::tls::{self, Certificates};
use crate::upstream::{
    Link, LinkState, Transports, UpstreamMetrics, dns_refresh, interface_probe, pool_maintenance, probe,
};

use self::certificates::Seals;
use self::clients::Changeable;
use self::maintenance::Maintenance;
use self::node::NodeParts;
use self::storage::{Place, Storage};

/// Connections of clients at once; a node's own clients open far fewer.
const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stop waits for requests under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Held watches return upstream at most so fast, over all watches of the node.
const REOPEN_INTERVAL: Duration = Duration::from_millis(25);

/// How long a blocking thread waits for more. They are woken in turn, so that under a steady load as many stay as the largest
/// burst ever needed, unless each gets less than one piece of work in this time.
const THREADS_KEPT: Duration = Duration::from_millis(100);

/// Runs edgehold until a signal ends it: the whole of `edgehold run`.
///
/// # Errors
/// What keeps it from starting (an address in use, a store that is not private), or the end of a task that it cannot
/// do without. No certificate, upstream or client is among them.
pub fn run(config: Config) -> anyhow::Result<()> {
    logging::init(&config.log);
    memory::keep_from_disk();
    let descriptors = descriptors::raise_limit();
    tls::warm_up();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(THREADS_KEPT)
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let running = App::bind(config).await?.spawn();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = ?running.addresses(), "edgehold is serving");
        descriptors.tell();
        notify::ready();
        notify::follow(
            running.link.clone(),
            running.maintenance.place(),
            running.configuration.clone(),
        );
        notify::feed_watchdog();
        let failed = tokio::select! {
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
            () = running.failed() => true,
        };
        tracing::info!("stopping: finishing what is under way, a second signal aborts");
        notify::stopping();
        tokio::select! {
            () = running.stop() => {}
            _ = interrupt.recv() => anyhow::bail!("aborted by a second signal"),
            _ = terminate.recv() => anyhow::bail!("aborted by a second signal"),
        }
        if failed { anyhow::bail!("a task that edgehold cannot do without has ended, see the log") } else { Ok(()) }
    });
    // A disk that hangs keeps its thread for ever.
    runtime.shutdown_background();
    outcome
}

/// edgehold, bound to its addresses and its store but not serving yet.
pub struct App {
    config: Config,
    listener: Bound,
    admin: Option<admin::Bound>,
    started: SystemTime,
    storage: Storage,
    certificates: Arc<Certificates>,
    tokens: StoredTokens,
    issuer: StoredIssuer,
    metrics: ServerMetrics,
    upstream_metrics: UpstreamMetrics,
    registry: Registry,
    tasks: Tasks,
}

impl App {
    /// Binds addresses and store, and loads what certificates there are.
    ///
    /// # Errors
    /// An address that cannot be listened on, a store that cannot be opened.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let started = clock::wall();
        let tasks = Tasks::new();
        let listener = Listener::bind(ListenerConfig {
            addresses: config.listen.addresses.clone(),
            max_connections: MAX_CONNECTIONS,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            header_timeout: HEADER_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            write_timeout: config.listen.write_timeout,
        })
        .await?;
        let (cache, prepared) = (config.cache.clone(), config.clone());
        let blocking_tasks = tasks.clone();
        let audiences = config.offline.issuer.audiences.clone();
        let opened = tasks.spawn_blocking(move || -> anyhow::Result<_> {
            let (storage, tokens) = Storage::open(&cache, &blocking_tasks)?;
            node::prepare(&prepared);
            let issuer = storage.issuer(audiences, &blocking_tasks)?;
            let seals = Seals::new(tokens.node_key());
            let certificates = Certificates::bind(certificates::config(&prepared, &seals));
            Ok((storage, (tokens, issuer), Arc::new(certificates)))
        });
        let (storage, (tokens, issuer), certificates) = opened.await.context("opening the store")??;
        // Last: one that cannot start says only why.
        let admin = bind_admin(&config.admin.address).await?;
        let mut registry = Registry::default();
        let metrics = ServerMetrics::register(&mut registry);
        let upstream_metrics = UpstreamMetrics::register(&mut registry);
        Ok(Self {
            config,
            listener,
            admin,
            started,
            storage,
            certificates,
            tokens,
            issuer,
            metrics,
            upstream_metrics,
            registry,
            tasks,
        })
    }

    /// Starts serving. Needs a tokio runtime.
    pub fn spawn(self) -> Running {
        let Self {
            config,
            listener,
            admin,
            started,
            storage:
                Storage {
                    store,
                    spool,
                    place,
                    deferred,
                },
            certificates,
            tokens,
            issuer,
            metrics,
            upstream_metrics,
            mut registry,
            tasks,
        } = self;
        let seals = Seals::new(tokens.node_key());
        let time = maintenance::restored_time(&store, config.offline.expiry);
        tasks.spawn_critical(
            "certificates",
            Arc::clone(&certificates).run(tasks.cancelled().clone()),
        );

        reload::warn_of_file_mode(&config.upstream);
        let link = Link::new(config.upstream.settings.clone(), upstream_metrics);
        let identities = config
            .clients
            .iter()
            .filter_map(|client| {
                let name = client.common_name.clone();
                certificates.client_identity(&name).map(|source| (name, source))
            })
            .collect();
        let transports = Transports::spawn(&link, &certificates.upstream_roots(), identities, &time, &tasks);
        probe::spawn(&transports, &tasks);
        pool_maintenance::spawn(&transports, &tasks);
        interface_probe::spawn(&transports, &tasks);
        dns_refresh::spawn(&transports, &tasks);
        let clients = Changeable::new(&config);
        let configuration = reload::spawn(&config, &link, &certificates, &clients, &tasks);

        let cache_config = CacheConfig {
            spool,
            node_key: tokens.node_key().clone(),
            reviews: config.offline.reviews,
        };
        let kept = Arc::clone(&store);
        let cache = Cache::new(Arc::clone(&store), cache_config, tasks.clone());
        let proxy = Arc::new(Proxy::new(Parts {
            transports,
            link: link.clone(),
            cache,
            tokens,
            issuer,
            time: Arc::clone(&time),
            pace: Pace::every(REOPEN_INTERVAL),
            limits: clients.limits,
            priorities: clients.priorities,
            filters: clients::filters(&config),
            metrics: ProxyMetrics::register(&mut registry),
            tasks: tasks.clone(),
        }));
        maintenance::follow_link(&link, &time, &tasks);
        issuer::keep_current(&config.offline.issuer, &proxy, &tasks);
        let maintenance = Maintenance::new(store, (place, deferred), Arc::clone(&time));
        maintenance.spawn(&tasks);
        maintenance.prune(&proxy, config.cache.max_size, configured_owners(&config), &tasks);
        let node = NodeParts::spawn(&config, &seals, proxy.transports(), &mut registry, &tasks);

        let addresses = listener.addresses();
        listener.spawn(&proxy, &certificates.server_material(), &time, &metrics, &tasks);
        let place = maintenance.place();
        // Only one that should be on disk is missed there.
        let observer = Arc::new(admin::Observer {
            proxy: Arc::downgrade(&proxy),
            link: link.clone(),
            certificates: Arc::clone(&certificates),
            store: kept,
            in_memory: Box::new(move || match *place.borrow() {
                Place::Configured => None,
                Place::Memory(why) => Some(why),
            }),
            cache_path: config.cache.path.clone(),
            configuration: configuration.clone(),
            started,
        });
        admin::ProcessMetrics(Arc::clone(&observer)).register(&mut registry);
        let registry = Arc::new(registry);
        let admin_address = admin.as_ref().map(|bound| bound.address.clone());
        if let Some(bound) = admin {
            let sources = admin::Sources {
                observer,
                server: metrics.clone(),
                registry: Arc::clone(&registry),
                listen: addresses.iter().map(ToString::to_string).collect(),
                cache_max_bytes: config.cache.max_size,
                token_file: config.admin.token_file.clone(),
            };
            admin::spawn(bound, sources, &tasks);
        }
        Running {
            addresses,
            admin_address,
            link,
            proxy,
            certificates,
            metrics,
            registry,
            configuration,
            maintenance,
            node,
            tasks,
        }
    }
}

/// edgehold, serving.
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin_address: Option<AdminAddress>,
    link: Link,
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    metrics: ServerMetrics,
    registry: Arc<Registry>,
    /// What is wrong with the configuration file.
    configuration: tokio::sync::watch::Receiver<Option<String>>,
    maintenance: Maintenance,
    node: NodeParts,
    tasks: Tasks,
}

impl Running {
    /// The bound addresses, in the configured order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it tells how it is; `None` if that could not be had.
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin_address.as_ref()
    }

    /// The state of the way to the cloud, to be followed.
    pub fn link(&self) -> tokio::sync::watch::Receiver<LinkState> {
        self.link.subscribe()
    }

    /// The way to the cloud and its servers.
    pub fn way(&self) -> &Link {
        &self.link
    }

    /// The certificates and how they are.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What the listener counted.
    pub fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// The formatter's own.
    pub fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The proxy, for its status.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Waits until everything that was recorded so far is on disk.
    pub async fn settle(&self) {
        self.proxy.cache().settle().await;
        self.proxy.tokens().settle().await;
        self.proxy.issuer().settle().await;
        self.maintenance.sync(&self.tasks).await;
    }

    /// Resolves when a task has ended that edgehold cannot do without.
    pub async fn failed(&self) {
        self.tasks.failed().cancelled().await;
    }

    /// Stops: takes nothing new, lets requests finish, ends watches cleanly, writes everything down.
    pub async fn stop(self) {
        self.tasks.stop();
        let deadline = DRAIN_TIMEOUT + Duration::from_secs(1);
        if tokio::time::timeout(deadline, self.settle()).await.is_err() {
            tracing::warn!("not everything that was received could be written in time");
        }
        // Strands end with their last handle.
        drop(self.proxy);
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "not everything ended in time");
        }
        self.maintenance.close(&self.tasks).await;
        self.node.close(&self.tasks).await;
    }
}

/// A socket that cannot be had, as where nothing has made /run/edgehold, is said: clients are served without. A port is there
/// or somebody else's.
async fn bind_admin(address: &AdminAddress) -> anyhow::Result<Option<admin::Bound>> {
    match (admin::bind(address).await, address) {
        (Ok(bound), _) => Ok(Some(bound)),
        (Err(error), AdminAddress::Unix(_)) => {
            tracing::warn!(
                %address, %error,
                "there is no admin listener: `edgehold status` and monitoring get no answer; make the directory \
                 (RuntimeDirectory=edgehold in the unit) or set admin.address"
            );
            Ok(None)
        }
        (Err(error), AdminAddress::Tcp(_)) => {
            Err(error).context(format!("listening on admin.address {address}"))
        }
    }
}

/// The start of the keys of every configured client: the quota never takes their last good copy.
fn configured_owners(config: &Config) -> HashSet<String> {
    config
        .clients
        .iter()
        .map(|client| client.common_name.clone())
        .collect()
}
