//! Transports: the upstream connections of each configured certificate, and the default one without any.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, Response};
use tokio::sync::watch;

use crate::runtime::body::Body;
use crate::runtime::tasks::Tasks;
use crate::tls::{Alpn, ClientIdentity, ClientTls, Roots, ServerName, TrustedTime};

use super::Purpose;
use super::error::{Failure, UpstreamError};
use super::pool::{Pool, Target};

/// What transports need to know.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// Host name or IP address of the apiserver, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name that its certificate must carry: the host.
    pub server_name: ServerName,
    /// At which moment its certificate is judged.
    pub time: Arc<TrustedTime>,
    /// TCP, TLS and HTTP handshakes together.
    pub connect_timeout: Duration,
}

impl TransportConfig {
    /// `host:port` as it stands in `Host` and `:authority`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The upstream connections of one identity.
pub struct Transport {
    name: String,
    pool: ArcSwapOption<Pool>,
}

impl Transport {
    /// The common name, or `default`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request; resolves with the head of the answer. The body streams.
    pub async fn send(
        &self,
        request: Request<Body>,
        purpose: Purpose,
    ) -> Result<Response<Body>, UpstreamError> {
        self.pool()?.send(request, purpose).await
    }

    /// Sends a request on a new HTTP/1.1 connection of its own: for upgrades and probes.
    pub async fn send_alone(
        &self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, UpstreamError> {
        self.pool()?.send_alone(request).await
    }

    /// Lets the next requests dial anew; see [`Link`](super::Link).
    pub fn forget_connections(&self) {
        if let Some(pool) = self.pool.load().as_ref() {
            pool.forget_connections();
        }
    }

    /// Open connections and streams, by purpose.
    pub fn usage(&self) -> HashMap<Purpose, (usize, usize)> {
        self.pool
            .load()
            .as_ref()
            .map(|pool| pool.usage())
            .unwrap_or_default()
    }

    fn pool(&self) -> Result<Arc<Pool>, UpstreamError> {
        self.pool.load_full().ok_or_else(|| {
            let message = format!(
                "no usable certificate or upstream CA yet for transport {}",
                self.name
            );
            UpstreamError::unsent(Failure::NoCredentials, message)
        })
    }

    fn replace(&self, pool: Option<Pool>) {
        if let Some(old) = self.pool.swap(pool.map(Arc::new)) {
            old.retire();
        }
    }
}

/// All transports of this node.
pub struct Transports {
    default: Arc<Transport>,
    by_name: HashMap<String, Arc<Transport>>,
    identities: HashMap<String, IdentitySource>,
}

/// Where a transport's identity comes from.
pub type IdentitySource = watch::Receiver<Option<Arc<ClientIdentity>>>;

impl Transports {
    /// One transport for each configured common name, and the default one; each follows its certificate and the
    /// upstream CA for as long as `tasks` runs.
    pub fn spawn(
        config: &TransportConfig,
        roots: &watch::Receiver<Option<Arc<Roots>>>,
        identities: Vec<(String, IdentitySource)>,
        tasks: &Tasks,
    ) -> Self {
        let default = spawn_transport("default".to_owned(), config, roots.clone(), None, tasks);
        let known = identities.iter().cloned().collect();
        let by_name = identities
            .into_iter()
            .map(|(name, source)| {
                (
                    name.clone(),
                    spawn_transport(name, config, roots.clone(), Some(source), tasks),
                )
            })
            .collect();
        Self {
            default,
            by_name,
            identities: known,
        }
    }

    /// The transport without client certificate.
    pub fn default_transport(&self) -> &Arc<Transport> {
        &self.default
    }

    /// The transport of a configured common name.
    pub fn named(&self, common_name: &str) -> Option<&Arc<Transport>> {
        self.by_name.get(common_name)
    }

    /// The organizations of the certificate that a configured common name is spoken for with; `None` while it has not
    /// loaded.
    pub fn organizations(&self, common_name: &str) -> Option<Vec<String>> {
        let identity = self.identities.get(common_name)?.borrow();
        Some(identity.as_ref()?.leaf().organizations.clone())
    }

    /// Every transport.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Transport>> {
        std::iter::once(&self.default).chain(self.by_name.values())
    }
}

fn spawn_transport(
    name: String,
    config: &TransportConfig,
    mut roots: watch::Receiver<Option<Arc<Roots>>>,
    mut identity: Option<IdentitySource>,
    tasks: &Tasks,
) -> Arc<Transport> {
    let transport = Arc::new(Transport {
        name,
        pool: ArcSwapOption::empty(),
    });
    let time = Arc::clone(&config.time);
    let target = Target {
        host: config.host.clone(),
        port: config.port,
        server_name: config.server_name.clone(),
        connect_timeout: config.connect_timeout,
    };
    let own = Arc::clone(&transport);
    let inner = tasks.clone();
    let build = move |roots: &mut watch::Receiver<Option<Arc<Roots>>>,
                      identity: &mut Option<IdentitySource>| {
        let trusted = roots.borrow_and_update().clone();
        let presented = identity.as_mut().map(|source| source.borrow_and_update().clone());
        let pool = match (trusted, presented) {
            (Some(roots), None) => build_pool(&target, &roots, None, &time, &inner),
            (Some(roots), Some(Some(identity))) => {
                build_pool(&target, &roots, Some(&identity), &time, &inner)
            }
            _ => None,
        };
        own.replace(pool);
    };
    build(&mut roots, &mut identity);
    tasks.spawn_critical("transport", async move {
        loop {
            let changed = async {
                match identity.as_mut() {
                    None => roots.changed().await.is_ok(),
                    Some(source) => tokio::select! {
                        changed = roots.changed() => changed.is_ok(),
                        changed = source.changed() => changed.is_ok(),
                    },
                }
            };
            if !changed.await {
                // The certificate manager has gone: keep what we have until the process stops.
                std::future::pending::<()>().await;
            }
            build(&mut roots, &mut identity);
        }
    });
    transport
}

fn build_pool(
    target: &Target,
    roots: &Roots,
    identity: Option<&ClientIdentity>,
    time: &Arc<TrustedTime>,
    tasks: &Tasks,
) -> Option<Pool> {
    let tls = |alpn| {
        ClientTls::new(Some(roots), identity, alpn, time)
            .inspect_err(|error| tracing::warn!(%error, "cannot build the upstream TLS configuration"))
            .ok()
    };
    Some(Pool::new(
        target.clone(),
        tls(Alpn::H2)?,
        tls(Alpn::Http1)?,
        tasks.clone(),
    ))
}
