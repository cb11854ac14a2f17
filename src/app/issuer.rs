//! Keeps the cluster's keys for service account tokens current, where a credential to read them with is configured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Issuer, IssuerCredential};
use crate::identity::BearerToken;
use crate::proxy::{IssuerReader, Proxy};
use crate::runtime::tasks::Tasks;
use crate::upstream::LinkState;

/// Between two reads that tokens with unknown keys ask for: anybody can make up such a token.
const UNWANTED: Duration = Duration::from_secs(60);

/// Between two failures, doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(600);

/// Larger is no token.
const LARGEST_TOKEN: u64 = 64 << 10;

/// Reads the keys now, every interval, and when a token names one that is not known.
pub(super) fn keep_current(config: &Issuer, proxy: &Arc<Proxy>, tasks: &Tasks) {
    let Some(credential) = config.credential.clone() else {
        return;
    };
    let (interval, proxy, inner) = (config.refresh_interval, Arc::downgrade(proxy), tasks.clone());
    tasks.spawn_critical("issuer", async move {
        let mut retry = FIRST_RETRY;
        while let Some(held) = proxy.upgrade() {
            held.link().reaches(LinkState::Online).await;
            let read = match reader(&credential, &inner).await {
                Ok(reader) => held
                    .read_issuer(&reader)
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
            let issuer = held.issuer().clone();
            drop(held);
            match read {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    due(interval, issuer.wanted()).await;
                }
                Err(error) => {
                    tracing::warn!(error, retry = ?retry, "the keys of service account tokens could not be read");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    });
}

/// Resolves when the keys are to be read again: after the interval, or earlier when a token has named one that is not known.
async fn due(interval: Duration, wanted: impl Future<Output = ()>) {
    let pause = UNWANTED.min(interval);
    tokio::time::sleep(pause).await;
    let _time_or_wanted = tokio::time::timeout(interval - pause, wanted).await;
}

async fn reader(credential: &IssuerCredential, tasks: &Tasks) -> Result<IssuerReader, String> {
    let path = match credential {
        IssuerCredential::Client(name) => return Ok(IssuerReader::Client(name.clone())),
        IssuerCredential::TokenFile(path) => path.clone(),
    };
    // Read each time: kubelet renews it in its place.
    let read = tasks.spawn_blocking(move || token(&path)).await;
    read.map_err(|error| error.to_string())?.map(IssuerReader::Token)
}

fn token(path: &Path) -> Result<BearerToken, String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST_TOKEN).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    BearerToken::new(text.trim().to_owned()).ok_or_else(|| format!("{}: no token in it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    #[tokio::test(start_paused = true)]
    async fn a_token_with_an_unknown_key_has_the_keys_read_again_once_a_minute_at_most() {
        let hour = Duration::from_secs(3600);
        for (interval, is_wanted, expected) in [
            (hour, true, UNWANTED),
            (hour, false, hour),
            (Duration::from_secs(10), true, Duration::from_secs(10)),
            (Duration::from_secs(10), false, Duration::from_secs(10)),
        ] {
            let began = clock::now();
            let wanted = async {
                if !is_wanted {
                    std::future::pending::<()>().await;
                }
            };
            due(interval, wanted).await;
            let took = clock::now() - began;
            assert!(
                took >= expected && took < expected + Duration::from_secs(1),
                "{took:?}"
            );
        }
    }
}
