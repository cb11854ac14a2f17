//! The loop for a whole cluster: leads by a Lease, and approves what it can prove.
//!
//! Beside what `edgehold approve` looks at, the requesting node must be one of the cluster, and its addresses the Service's, node-local,
//! or named on the command line. What does not pass is left alone, and said once. Nothing is ever denied: a person may know more.

use std::collections::HashMap;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::runtime::{clock, jitter};

use super::approver::{Approver, Mode, NotApproved};
use super::judge::{Allowed, Refusal, SIGNER, Sound, judge};
use super::lease::{Election, RENEW_DEADLINE, Turn};
use crate::node::client::{ApiError, text};
use crate::node::serving::REQUESTS;

/// What edgehold calls its requests.
const OURS: &str = "edgehold-serving-";

const INTERVAL: Duration = Duration::from_secs(5);

/// For giving back the Lease at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where an approver stands for election.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its own name: no two are the same.
    pub identity: String,
    /// Of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub lease: String,
}

/// What the loop has done since it began. Cheap to clone; all clones count together.
#[derive(Debug, Default, Clone)]
pub struct Done {
    approved: Counter,
    refused: Counter,
    failed: Counter,
    leads: Gauge,
}

impl Done {
    /// New counters, registered under `edgehold_approver_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let done = Self::default();
        let counted = [
            (
                "edgehold_approver_approved",
                "Requests for certificates that were approved",
                &done.approved,
            ),
            (
                "edgehold_approver_refused",
                "Requests for certificates that were left alone",
                &done.refused,
            ),
            (
                "edgehold_approver_failures",
                "Rounds in which the cluster could not be asked",
                &done.failed,
            ),
        ];
        for (name, help, counter) in counted {
            registry.register(name, help, counter.clone());
        }
        let help = "Whether this approver leads: 1 or 0";
        registry.register("edgehold_approver_leading", help, done.leads.clone());
        done
    }
}

/// The loop's own state.
struct Watch<'a> {
    approver: &'a Approver,
    me: String,
    mode: Mode,
    election: Election,
    /// Until when what was written to the Lease counts.
    leads_until: Option<Instant>,
    /// The Lease as it was written last.
    held: Option<Value>,
    /// Requests that were refused, by UID, and why: said once.
    refused: HashMap<String, String>,
    done: Done,
}

impl Approver {
    /// Approves until it is told to stop, while it leads. The Lease is given back then, so that nobody waits for its end.
    pub async fn watch(
        &self,
        candidate: Candidate,
        mode: Mode,
        done: Done,
        stopped: impl Future<Output = ()>,
    ) {
        let Candidate {
            identity,
            namespace,
            lease,
        } = candidate;
        let mut watch = Watch {
            approver: self,
            me: identity.clone(),
            mode,
            election: Election::new(identity, namespace, lease),
            leads_until: None,
            held: None,
            refused: HashMap::new(),
            done,
        };
        tokio::select! {
            () = watch.go_on() => {}
            () = stopped => {}
        }
        if tokio::time::timeout(FAREWELL, watch.give_back()).await.is_err() {
            tracing::warn!("the Lease could not be given back in time");
        }
    }
}

impl Watch<'_> {
    async fn go_on(&mut self) {
        loop {
            let turn = async {
                if self.lead().await? {
                    self.round().await?;
                }
                Ok::<_, ApiError>(())
            };
            if let Err(error) = turn.await {
                self.done.failed.inc();
                tracing::warn!(%error, "requests for certificates could not be looked at, trying again");
            }
            tokio::time::sleep(INTERVAL + jitter::below(INTERVAL / 4)).await;
        }
    }

    /// Whoever has the Lease meanwhile keeps it: another version of it is not written over.
    async fn give_back(&mut self) {
        let held = self.held.take();
        let given = held.and_then(|lease| self.election.given_back(&lease, &micro_time()));
        let Some(given) = given else { return };
        match self.approver.client.update(&self.election.path(), &given).await {
            Ok(_) => tracing::info!(me = %self.me, "the Lease is given back"),
            Err(error) => tracing::warn!(%error, "the Lease could not be given back"),
        }
    }

    /// Takes or renews the Lease, and says whether it leads.
    async fn lead(&mut self) -> Result<bool, ApiError> {
        let client = &self.approver.client;
        let lease = match client.get(&self.election.path()).await {
            Ok(lease) => Some(lease),
            Err(ApiError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        // As of before the write: the others count from when they see it.
        let now = clock::now();
        let wall = micro_time();
        let written = match self.election.step(lease.as_ref(), now, &wall) {
            Turn::Wait => {
                self.resigned();
                return Ok(false);
            }
            Turn::Create(lease) => client.create(&self.election.collection(), &lease).await,
            Turn::Update(lease) => client.update(&self.election.path(), &lease).await,
        };
        match written {
            Ok(written) => {
                self.held = Some(written);
                self.done.leads.set(1);
                if self.leads_until.replace(now + RENEW_DEADLINE).is_none() {
                    tracing::info!(me = %self.me, "leading: requests for certificates are looked at");
                }
                Ok(true)
            }
            Err(ApiError::Exists) => {
                self.resigned();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn resigned(&mut self) {
        self.held = None;
        self.done.leads.set(0);
        if self.leads_until.take().is_some() {
            tracing::info!(me = %self.me, "another approver leads");
        }
    }

    fn leads(&self) -> bool {
        self.leads_until.is_some_and(|until| clock::now() < until)
    }

    /// Looks at everything that is undecided.
    async fn round(&mut self) -> Result<(), ApiError> {
        let target = format!(
            "{REQUESTS}?fieldSelector=spec.signerName%3D{}",
            SIGNER.replace('/', "%2F")
        );
        let list = self.approver.client.get(&target).await?;
        let items = list.pointer("/items").and_then(Value::as_array);
        let ours: Vec<&Value> = items
            .into_iter()
            .flatten()
            .filter(|one| text(one, "/metadata/name").starts_with(OURS))
            .collect();
        self.refused
            .retain(|uid, _| ours.iter().any(|one| text(one, "/metadata/uid") == uid));
        let allowed = self.approver.allowed().await?.and_node_local();
        for request in ours {
            if !self.leads() {
                break;
            }
            self.one(request, &allowed).await?;
        }
        Ok(())
    }

    async fn one(&mut self, request: &Value, allowed: &Allowed) -> Result<(), ApiError> {
        let name = text(request, "/metadata/name");
        let verdict = match judge(request, allowed) {
            Err(Refusal::Decided(_)) => return Ok(()),
            Err(refusal) => Err(NotApproved::from(refusal)),
            Ok(sound) => self.proved(sound).await,
        };
        let why = match verdict {
            Ok(sound) => match self.mode {
                Mode::DryRun => format!("would be approved: {}", sound.node),
                Mode::Approve => {
                    match self.approver.approve(name, request.clone()).await {
                        // Somebody was faster.
                        Err(ApiError::Exists) => return Ok(()),
                        done => done?,
                    }
                    self.done.approved.inc();
                    tracing::info!(name, node = %sound.node, "approved");
                    self.tell(request, "Normal", "Approved", "edgehold approve: approved")
                        .await;
                    return Ok(());
                }
            },
            Err(NotApproved::Api(error)) => return Err(error),
            Err(NotApproved::Refused(refusal)) => refusal.to_string(),
        };
        let uid = text(request, "/metadata/uid").to_owned();
        if self.refused.get(&uid) != Some(&why) {
            self.done.refused.inc();
            tracing::warn!(name, why, "not approved");
            let note = format!("edgehold approve: not approved: {why}");
            self.tell(request, "Warning", "NotApproved", &note).await;
            self.refused.insert(uid, why);
        }
        Ok(())
    }

    /// A request whose node is one.
    async fn proved(&self, sound: Sound) -> Result<Sound, NotApproved> {
        // What is in a node's name stands for itself in a path.
        let node = self
            .approver
            .client
            .get(&format!("/api/v1/nodes/{}", sound.node))
            .await;
        match node {
            Ok(_) => Ok(sound),
            Err(ApiError::NotFound(_)) => Err(Refusal::NoSuchNode(sound.node).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Best effort: what is said is in the log too.
    async fn tell(&self, request: &Value, kind: &str, reason: &str, note: &str) {
        let name = text(request, "/metadata/name");
        // The limit of the field.
        let note: String = note.chars().take(1000).collect();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}.{}", unique.get(..16).unwrap_or_default()), "namespace": "default"},
            "eventTime": micro_time(),
            "reportingController": "edgehold.io/approver",
            "reportingInstance": self.me,
            "action": "Approve",
            "reason": reason,
            "type": kind,
            "note": note,
            "regarding": {
                "apiVersion": "certificates.k8s.io/v1",
                "kind": "CertificateSigningRequest",
                "name": name,
                "uid": text(request, "/metadata/uid"),
            },
        });
        let path = "/apis/events.k8s.io/v1/namespaces/default/events";
        if let Err(error) = self.approver.client.create(path, &event).await {
            tracing::debug!(%error, "an event could not be written");
        }
    }
}

/// As `metav1.MicroTime` is written.
fn micro_time() -> String {
    humantime::format_rfc3339_micros(clock::wall()).to_string()
}
