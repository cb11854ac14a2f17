//! Probes `/readyz` while the link is in doubt or down.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};

use crate::runtime::body;
use crate::runtime::tasks::Tasks;

use super::link::{Link, LinkState, Signal};
use super::transport::Transport;

/// How to probe.
#[derive(Debug, Clone)]
pub struct ProbeConfig {
    /// Between two probes while offline.
    pub interval: Duration,
    /// For one probe, connection included.
    pub timeout: Duration,
    /// `host:port` for the request target.
    pub authority: String,
}

/// Probes over the default transport: once at the start, at once when a failure raised suspicion, then every interval until the cloud
/// answers. While the link is `Online` it is silent.
pub fn spawn(config: ProbeConfig, link: Link, transport: Arc<Transport>, tasks: &Tasks) {
    tasks.spawn_critical("probe", async move {
        let mut state = link.subscribe();
        // A node that starts without its cloud knows it before the first client has waited for it.
        if !probe(&config, &transport).await {
            link.signal(Signal::ProbeFailed);
        }
        loop {
            let now = *state.borrow_and_update();
            match now {
                LinkState::Online => {
                    if state.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                LinkState::Suspect => {}
                LinkState::Offline => {
                    // A request that got through meanwhile ends the waiting.
                    let _state_or_time = tokio::time::timeout(config.interval, state.changed()).await;
                    if link.state() != LinkState::Offline {
                        continue;
                    }
                }
            }
            let succeeded = probe(&config, &transport).await;
            link.signal(if succeeded {
                Signal::ProbeSucceeded
            } else {
                Signal::ProbeFailed
            });
        }
    });
}

async fn probe(config: &ProbeConfig, transport: &Transport) -> bool {
    let Ok(request) = Request::get(format!("https://{}/readyz", config.authority)).body(body::empty()) else {
        return false;
    };
    let answer = tokio::time::timeout(config.timeout, transport.send_alone(request)).await;
    match answer {
        Ok(Ok(response)) => {
            tracing::debug!(status = response.status().as_u16(), "probe answered");
            // An apiserver that does not let anonymous callers look is up all the same.
            response.status().is_success()
                || matches!(
                    response.status(),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                )
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "probe failed");
            false
        }
        Err(_) => {
            tracing::debug!("probe timed out");
            false
        }
    }
}
