//! The serving certificate, issued by the cluster: a key that is made here and never leaves the node, a
//! CertificateSigningRequest in the name of a configured client, and the certificate when it is approved.
//!
//! `machine` decides, this drives it. What is issued is written as a file which the certificates of the process
//! watch like any other. Invariants: nobody waits for an approval; the certificate in use is kept until a better one
//! is there; a request survives a restart, since its key is on disk and its name follows from it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::time::Instant;

use crate::runtime::tasks::Tasks;
use crate::runtime::{clock, jitter};
use crate::tls::{AltName, RequestSubject};

use super::client::{ApiClient, ApiError};
use files::{Files, FilesError};
use machine::{Action, CsrFailure, Event, Machine, Now};
use metrics::{Metrics, Outcome};
use object::CsrStatus;

mod config;
mod files;
mod machine;
mod metrics;
mod object;

pub(super) use object::PATH as REQUESTS;

pub use config::ServingConfig;
pub use files::{CURRENT, prepare};

/// Where every cluster has the Service of its apiservers.
pub(super) const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";

/// How often the ClusterIP is read again, and how soon after a failure.
const LEARN_INTERVAL: Duration = Duration::from_secs(3600);
const LEARN_RETRY: Duration = Duration::from_secs(5);

/// Keeps the serving certificate current for as long as `tasks` runs.
pub fn spawn(config: ServingConfig, client: ApiClient, registry: &mut Registry, tasks: &Tasks) {
    let keeper = Keeper {
        files: Files::new(&config.directory),
        config,
        client,
        metrics: Metrics::register(registry),
        tasks: tasks.clone(),
        cluster_ips: BTreeSet::new(),
        learn_at: clock::now(),
        request: String::new(),
    };
    let cancelled = tasks.cancelled().clone();
    tasks.spawn("serving-certificate", async move {
        tokio::select! {
            () = keeper.run() => {}
            () = cancelled.cancelled() => {}
        }
    });
}

/// The driver of the machine.
struct Keeper {
    config: ServingConfig,
    client: ApiClient,
    files: Files,
    metrics: Metrics,
    tasks: Tasks,
    cluster_ips: BTreeSet<IpAddr>,
    learn_at: Instant,
    /// The name of the request under way.
    request: String,
}

impl Keeper {
    async fn run(mut self) {
        let current = self.on_disk(|files| files.current()).await;
        let current = current.unwrap_or_else(|error| {
            tracing::warn!(%error, "the issued serving certificate cannot be used, asking for another");
            None
        });
        let mut machine = Machine::new(current);
        let mut event = Event::Tick;
        loop {
            if matches!(event, Event::Tick)
                && clock::now() >= self.learn_at
                && let Some(names) = self.learn().await
            {
                event = Event::Names(names);
            }
            let (next, action) = machine.step(event, now());
            machine = next;
            self.metrics.waiting.set(i64::from(machine.is_waiting()));
            event = match action {
                Action::WakeAt(at) => {
                    tokio::time::sleep_until(at.min(self.learn_at)).await;
                    Event::Tick
                }
                Action::Submit => self.submit(machine.wanted().cloned().unwrap_or_default()).await,
                Action::Look => self.look().await,
                Action::Install(chain) => self.install(chain, machine.wanted()).await,
                Action::Abandon => {
                    if let Err(error) = self.on_disk(|files| files.abandon()).await {
                        tracing::warn!(%error, "the key of a rejected request stays");
                    }
                    Event::Tick
                }
            };
        }
    }

    /// What the certificate must be good for; `None` while the cluster cannot be asked.
    async fn learn(&mut self) -> Option<BTreeSet<AltName>> {
        self.learn_at = clock::now() + LEARN_INTERVAL;
        match self.client.get(SERVICE).await {
            Ok(service) => self.cluster_ips = cluster_ips(&service),
            Err(ApiError::Unreachable(error)) => {
                tracing::debug!(error, "the ClusterIP of default/kubernetes is not known yet");
                self.learn_at = clock::now() + LEARN_RETRY;
                return None;
            }
            // Clients that come by another address are served all the same.
            Err(error) => tracing::warn!(
                %error, client = self.client.name(),
                "the Service default/kubernetes cannot be read: its ClusterIP is left out of the serving certificate",
            ),
        }
        Some(self.config.all_names(&self.cluster_ips))
    }

    async fn submit(&mut self, names: BTreeSet<AltName>) -> Event {
        let config = self.config.clone();
        let made = self
            .on_disk(move |files| {
                let key = files.pending_key()?;
                let listed: Vec<String> = names.iter().map(ToString::to_string).collect();
                let request = key.request(&RequestSubject {
                    common_name: config.common_name.clone(),
                    organization: config.organization.clone(),
                    names,
                })?;
                let name = object::name(&key.fingerprint(), &listed.join(","), &config);
                let order = object::order(&name, &request, &config);
                Ok((name, order))
            })
            .await;
        let (name, order) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "no certificate can be requested");
                self.metrics.count(Outcome::Unusable);
                return Event::Failed(CsrFailure::Refused);
            }
        };
        let signer = &self.config.signer_name;
        match self.client.create(object::PATH, &order).await {
            Ok(_) => {
                self.metrics.count(Outcome::Submitted);
                tracing::info!(
                    csr = name,
                    signer,
                    "serving certificate requested, waiting for its approval"
                );
            }
            // Sent before a restart, or before an answer that was lost.
            Err(ApiError::Exists) => {
                tracing::info!(
                    csr = name,
                    signer,
                    "the request for the serving certificate is there already"
                );
            }
            Err(error) => return self.failure(&name, &error),
        }
        self.request = name;
        Event::Submitted
    }

    async fn look(&mut self) -> Event {
        let name = &self.request;
        let object = match self.client.get(&format!("{}/{name}", object::PATH)).await {
            Ok(object) => object,
            Err(ApiError::NotFound(_)) => {
                self.metrics.count(Outcome::Gone);
                tracing::warn!(
                    csr = name,
                    "the request for the serving certificate is gone, sending it again"
                );
                return Event::Failed(CsrFailure::Refused);
            }
            Err(error) => return self.failure(name, &error),
        };
        let (outcome, why) = match object::status_of(&object) {
            CsrStatus::Undecided => return Event::Undecided,
            CsrStatus::Issued(chain) => return Event::Issued(chain),
            CsrStatus::Denied(why) => (Outcome::Denied, why),
            CsrStatus::Failed(why) => (Outcome::Failed, why),
            CsrStatus::Unreadable => (
                Outcome::Unusable,
                "the certificate is not PEM in base64".to_owned(),
            ),
        };
        self.rejected(outcome, &why)
    }

    async fn install(&mut self, chain: String, wanted: Option<&BTreeSet<AltName>>) -> Event {
        let leaf = match self.on_disk(move |files| files.install(&chain)).await {
            Ok(leaf) => leaf,
            Err(error @ FilesError::Io { .. }) => {
                tracing::error!(%error, "the issued serving certificate cannot be kept, trying again");
                return Event::Failed(CsrFailure::Refused);
            }
            Err(error) => return self.rejected(Outcome::Unusable, &error.to_string()),
        };
        self.metrics.count(Outcome::Issued);
        let missing = wanted
            .into_iter()
            .flatten()
            .filter(|name| !leaf.names.contains(name));
        let missing: Vec<String> = missing.map(ToString::to_string).collect();
        let renewal = humantime::format_rfc3339_seconds(machine::renew_at(&leaf)).to_string();
        if missing.is_empty() {
            tracing::info!(csr = self.request, renewal, "serving certificate issued");
        } else {
            tracing::warn!(
                csr = self.request,
                renewal,
                ?missing,
                "serving certificate issued without some names"
            );
        }
        Event::Installed(leaf)
    }

    /// Needs a person: said, and tried again much later with another key.
    fn rejected(&self, outcome: Outcome, why: &str) -> Event {
        self.metrics.count(outcome);
        let outcome = outcome.as_str();
        tracing::warn!(
            csr = self.request,
            outcome,
            why,
            "no serving certificate was issued, asking again later"
        );
        Event::Failed(CsrFailure::Rejected)
    }

    fn failure(&self, name: &str, error: &ApiError) -> Event {
        if let ApiError::Unreachable(_) = error {
            self.metrics.count(Outcome::Unreachable);
            tracing::debug!(csr = name, %error, "the cluster cannot be asked for the serving certificate now");
            return Event::Failed(CsrFailure::Unreachable);
        }
        self.metrics.count(Outcome::Refused);
        tracing::warn!(
            csr = name, client = self.client.name(), %error,
            "the cluster refuses the request for the serving certificate",
        );
        Event::Failed(CsrFailure::Refused)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(Files) -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, FilesError> {
        let files = self.files.clone();
        match self.tasks.spawn_blocking(move || work(files)).await {
            Ok(result) => result,
            Err(error) => Err(FilesError::Io {
                path: self.config.directory.clone(),
                source: std::io::Error::other(error),
            }),
        }
    }
}

fn now() -> Now {
    Now {
        at: clock::now(),
        wall: clock::wall(),
        chance: jitter::chance(),
    }
}

/// Every ClusterIP of a Service; a headless one has none.
pub(super) fn cluster_ips(service: &Value) -> BTreeSet<IpAddr> {
    let all = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let one = service.pointer("/spec/clusterIP");
    all.into_iter()
        .flatten()
        .chain(one)
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect()
}
