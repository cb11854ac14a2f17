//! What may be done to get one request answered, and which server has it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::clientele::Clientele;
use super::failure::Failure;
use super::gateway::Answers;
use super::purpose::Purpose;
use super::server::Server;

/// Whether a request may be sent again after it may have been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idempotency {
    /// It changes nothing.
    Idempotent,
    /// Only what certainly was not sent goes to another server.
    NotIdempotent,
}

/// The policy for one request: what it may use, and the server that has it.
#[derive(Debug)]
pub struct RetryPolicy {
    purpose: Purpose,
    pub(super) idempotency: Idempotency,
    pub(super) answers: Answers,
    holder: Option<String>,
    server: Mutex<Option<Arc<Server>>>,
}

impl RetryPolicy {
    /// For a request that changes nothing and has no body: a broken connection, a failed server or a gateway's
    /// refusal makes it go on to the next one.
    pub fn read(purpose: Purpose) -> Self {
        Self::of(purpose, Idempotency::Idempotent)
    }

    /// For a request that must not be carried out twice, or whose body cannot be read twice.
    pub fn once(purpose: Purpose) -> Self {
        Self::of(purpose, Idempotency::NotIdempotent)
    }

    fn of(purpose: Purpose, idempotency: Idempotency) -> Self {
        Self {
            purpose,
            idempotency,
            answers: Answers::Anyhow,
            holder: None,
            server: Mutex::new(None),
        }
    }

    /// The same for a request that apiservers answer so: what answers in another form counts as a failed gateway.
    #[must_use]
    pub fn for_answers(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    /// The same for one of several callers that share a transport: it leaves the others theirs.
    #[must_use]
    pub fn on_behalf_of(self, holder: Option<String>) -> Self {
        Self { holder, ..self }
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Who has only a share of the connections.
    pub(super) fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// Whoever waits for the answer has waited as long as it should take: the server that has the request is probed. One that
    /// has not got it yet, because others are being connected first, is not to blame.
    pub fn timed_out(&self) {
        if let Some(server) = self.server() {
            server.is_slow();
        }
    }

    /// The server that has the request.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().clone()
    }

    /// It has a connection to this server, or is about to get one; `None`: it waits for its turn to be connected.
    pub(super) fn is_with(&self, server: Option<&Arc<Server>>) {
        *self.server.lock() = server.map(Arc::clone);
    }
}

/// In the extensions of every answer: where it came from, and whether it should still come from there.
#[derive(Debug, Clone)]
pub struct Origin {
    server: Arc<Server>,
    clientele: Clientele,
    drained: CancellationToken,
}

impl Origin {
    pub(super) fn new(server: &Arc<Server>, clientele: Clientele, drained: CancellationToken) -> Self {
        Self {
            server: Arc::clone(server),
            clientele,
            drained,
        }
    }

    /// Resolves when the identity by which it came has been replaced, or another server should be used: long-lived
    /// streams should move over.
    pub async fn left(&self) {
        self.drained.cancelled().await;
    }

    /// The stream broke in the middle.
    pub fn broke(&self) {
        self.server.failed_for(self.clientele, Failure::Broken);
    }
}
