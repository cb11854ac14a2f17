//! Serves the admin listener: few connections, each bounded in time, on tasks of their own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::app::logging;
use crate::config::LogLevel;
use crate::proxy::Proxy;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::server::ServerMetrics;
use crate::upstream::Purpose;

use super::facts::Observer;
use super::guard::{self, Matter, Over};
use super::listen::{Bound, Listener, Stream};
use super::objects::{self, Asked, Secrets};
use super::page;
use super::ready;
use super::status::{
    API_VERSION, CacheListing, CacheStatus, CertificateFile, ClientStatus, LinkStatus, Problem, ServerStatus,
    Status, moment,
};

/// Connections at once; monitoring needs one.
const MAX_CONNECTIONS: usize = 16;

/// A connection lives no longer, so that one that takes nothing does not keep its place.
const LONGEST: Duration = Duration::from_secs(300);

/// For the head of a request, the first one and those after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// More than any level of the log has letters.
const LARGEST_BODY: usize = 64;

/// A token file is never larger.
const LARGEST_TOKEN: u64 = 4096;

/// A browser asks for a user and a password then: see [`guard`].
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"edgehold\", Bearer");

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told from.
pub struct Sources {
    /// The parts, and what is wrong with them.
    pub observer: Arc<Observer>,
    /// The listener.
    pub server: ServerMetrics,
    /// Everything counted.
    pub registry: Arc<Registry>,
    /// Where clients connect.
    pub listen: Vec<String>,
    /// `cache.maxSize`.
    pub cache_max_bytes: u64,
    /// With the token that requests must show.
    pub token_file: Option<PathBuf>,
}

/// Serves until the process stops.
pub fn spawn(bound: Bound, sources: Sources, tasks: &Tasks) {
    let Bound { listener, address } = bound;
    tracing::info!(%address, "the admin listener is serving");
    let over = match listener {
        Listener::Unix(..) => Over::Unix,
        Listener::Tcp(_) => Over::Tcp,
    };
    let served = Arc::new(Served {
        sources,
        over,
        tasks: tasks.clone(),
    });
    let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (inner, stopping) = (tasks.clone(), tasks.cancelled().clone());
    tasks.spawn("admin", async move {
        let accepting = async {
            loop {
                let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok(stream) => {
                        let connection = Arc::clone(&served).connection(stream);
                        inner.spawn("admin-connection", async move {
                            connection.await;
                            drop(turn);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the admin listener took no connection");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stopping.cancelled() => {}
        }
    });
}

struct Served {
    sources: Sources,
    over: Over,
    tasks: Tasks,
}

impl Served {
    async fn connection(self: Arc<Self>, stream: Box<dyn Stream>) {
        let stopping = self.tasks.cancelled().clone();
        let service = service_fn(|request| {
            let own = Arc::clone(&self);
            async move { Ok::<_, Infallible>(own.answer(request).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = tokio::time::timeout(LONGEST, serving) => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "an admin connection broke");
                }
            }
            () = stopping.cancelled() => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let token = match self.token().await {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%error, "admin.tokenFile cannot be read: nobody may ask");
                return text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    "admin.tokenFile cannot be read\n",
                );
            }
        };
        let is_read = head.method == Method::GET || head.method == Method::HEAD;
        let matter = match head.uri.path() {
            // Names of principals, of namespaces and of what is in them.
            "/" | "/cache" | "/cache/objects" => Matter::Private,
            _ if !is_read => Matter::Private,
            _ => Matter::Health,
        };
        if let Err((status, why)) = guard::admit(&head.headers, self.over, matter, token.as_deref()) {
            let mut refusal = text(status, TEXT, &format!("{why}\n"));
            if status == StatusCode::UNAUTHORIZED {
                refusal.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
            }
            return refusal;
        }
        match head.uri.path() {
            "/log-level" if head.method == Method::POST => set_level(body).await,
            "/" | "/livez" | "/readyz" | "/metrics" | "/status" | "/cache" | "/cache/objects"
            | "/log-level"
                if !is_read =>
            {
                text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this is only read\n")
            }
            "/" => self.page(),
            "/livez" => text(StatusCode::OK, TEXT, "ok"),
            "/readyz" => self.readyz(head.uri.query().is_some_and(|query| query.contains("verbose"))),
            "/metrics" => self.metrics(),
            "/status" => json(&self.status()),
            "/cache" => json(&self.listing()),
            "/cache/objects" => self.objects(head.uri.query().unwrap_or_default()).await,
            "/log-level" => text(StatusCode::OK, TEXT, &format!("{}\n", logging::level())),
            _ => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "there is /, /livez, /readyz, /metrics, /status, /cache, /cache/objects and /log-level\n",
            ),
        }
    }

    async fn token(&self) -> std::io::Result<Option<String>> {
        let Some(path) = self.sources.token_file.clone() else {
            return Ok(None);
        };
        let reading = self.tasks.spawn_blocking(move || read_token(&path));
        reading
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map(Some)
    }

    fn checks(&self) -> Vec<ready::Check> {
        let observer = &self.sources.observer;
        ready::checks(&observer.findings(clock::wall()), &observer.link.report())
    }

    fn readyz(&self, verbose: bool) -> Response<Body> {
        let (ready, said) = ready::text(&self.checks(), verbose);
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        text(status, TEXT, &said)
    }

    fn page(&self) -> Response<Body> {
        let page = page::page(&self.status(), &self.listing());
        let mut response = text(StatusCode::OK, HTML, &page);
        if let Ok(policy) = HeaderValue::from_str(&page::POLICY) {
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn listing(&self) -> CacheListing {
        CacheListing::of(self.sources.observer.store.logs())
    }

    async fn objects(&self, query: &str) -> Response<Body> {
        let asked = match Asked::parse(query) {
            Ok(asked) => asked,
            Err(why) => return text(StatusCode::BAD_REQUEST, TEXT, &format!("{why}\n")),
        };
        if asked.secrets == Secrets::Shown {
            if self.over == Over::Tcp {
                // The token of a port is for monitoring.
                let why = "what is secret is told over a Unix socket only\n";
                return text(StatusCode::FORBIDDEN, TEXT, why);
            }
            tracing::info!("the admin listener is asked for objects with what is secret in them");
        }
        let Some(proxy) = self.sources.observer.proxy.upgrade() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "edgehold is stopping\n");
        };
        let found = asked.look(proxy.cache()).await;
        let secrets = asked.secrets;
        let decoding = self
            .tasks
            .spawn_blocking(move || serde_json::to_vec(&objects::told(found, secrets)));
        match decoding.await {
            Ok(Ok(said)) => bytes(StatusCode::OK, "application/json", said),
            Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, &error.to_string()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, &error.to_string()),
        }
    }

    fn metrics(&self) -> Response<Body> {
        let mut said = String::new();
        match prometheus_client::encoding::text::encode(&mut said, &self.sources.registry) {
            Ok(()) => text(StatusCode::OK, OPEN_METRICS, &said),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, &error.to_string()),
        }
    }

    fn status(&self) -> Status {
        let sources = &self.sources;
        let now = clock::wall();
        let observer = &sources.observer;
        let report = observer.link.report();
        let proxy = observer.proxy.upgrade();
        let statuses = observer.certificates.statuses();
        let findings = observer.findings(now);
        Status {
            api_version: API_VERSION.to_owned(),
            kind: "Status".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: moment(now),
            started: moment(observer.started),
            ready: !findings.iter().any(|finding| finding.stops_service),
            problems: findings.iter().map(Problem::from).collect(),
            listen: sources.listen.clone(),
            connections: sources.server.open.get(),
            link: LinkStatus::of(&report, proxy.as_ref().and_then(|proxy| proxy.last_contact())),
            servers: report.servers.iter().map(ServerStatus::from).collect(),
            clients: proxy.as_ref().map(|proxy| clients(proxy)).unwrap_or_default(),
            certificates: statuses.iter().map(|one| CertificateFile::of(one, now)).collect(),
            cache: self.cache(),
        }
    }

    fn cache(&self) -> CacheStatus {
        let sources = &self.sources;
        let stats = sources.observer.store.stats();
        CacheStatus {
            place: if (sources.observer.in_memory)().is_some() {
                "memory"
            } else {
                "file"
            }
            .to_owned(),
            path: sources.observer.cache_path.display().to_string(),
            logs: usize::try_from(stats.logs).unwrap_or(usize::MAX),
            bytes: stats.bytes,
            max_bytes: sources.cache_max_bytes,
            damaged: stats.quarantined,
            evicted: stats.evicted,
            failures: stats.write_failures + stats.sync_failures,
        }
    }
}

fn clients(proxy: &Proxy) -> Vec<ClientStatus> {
    let transports = proxy.transports();
    let mut names: Vec<_> = transports.names().collect();
    names.sort_unstable();
    let named = names.into_iter().filter_map(|name| transports.named(name));
    named
        .map(|transport| {
            let usage = transport.usage();
            let sum = |part: fn(&(usize, usize)) -> usize| {
                Purpose::ALL
                    .iter()
                    .filter_map(|purpose| usage.get(purpose))
                    .map(part)
                    .sum()
            };
            ClientStatus {
                name: transport.name().to_owned(),
                refused: transport.is_refused(),
                connections: sum(|used| used.0),
                streams: sum(|used| used.1),
            }
        })
        .collect()
}

/// The first line of the file, without spaces around it.
///
/// # Errors
/// It cannot be read, or holds nothing.
pub(crate) fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other(format!("{}: not a file", path.display())));
    }
    let mut content = String::new();
    file.take(LARGEST_TOKEN).read_to_string(&mut content)?;
    let token = content.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(std::io::Error::other(format!("{}: empty", path.display())));
    }
    Ok(token.to_owned())
}

async fn set_level(body: Incoming) -> Response<Body> {
    let wrong = || {
        let known = LogLevel::ALL.map(LogLevel::as_str).join(", ");
        text(StatusCode::BAD_REQUEST, TEXT, &format!("send one of {known}\n"))
    };
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return wrong();
    };
    let body = body.to_bytes();
    let asked = std::str::from_utf8(&body).unwrap_or_default().trim();
    let Some(level) = LogLevel::ALL.into_iter().find(|level| level.as_str() == asked) else {
        return wrong();
    };
    match logging::set_level(level) {
        Ok(()) => text(StatusCode::OK, TEXT, &format!("{}\n", level.as_str())),
        Err(why) => text(StatusCode::CONFLICT, TEXT, &format!("{why}\n")),
    }
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(said) => text(StatusCode::OK, "application/json", &said),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, &error.to_string()),
    }
}

fn text(status: StatusCode, content_type: &'static str, said: &str) -> Response<Body> {
    bytes(status, content_type, said.to_owned().into_bytes())
}

fn bytes(status: StatusCode, content_type: &'static str, said: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(body::full(said));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
