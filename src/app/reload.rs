//! Follows the configuration file: what can be changed while edgehold runs is put in force, of the rest the log says that
//! it needs a restart. A broken file changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config, ConfigErrors, Upstream};
use crate::runtime::files::{Coverage, Entry, FileEvents, entries};
use crate::runtime::tasks::Tasks;
use crate::tls::Certificates;
use crate::upstream::Link;

use super::way;

/// How often the file is read again although nobody said that it changed.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long a file must be left alone before it is read: whoever writes it may not be done.
const SETTLED: Duration = Duration::from_millis(100);

/// Follows the file that the configuration came from, if it came from one, for as long as `tasks` runs. SIGHUP has it
/// read at once.
pub(super) fn spawn(config: &Config, link: &Link, certificates: &Arc<Certificates>, tasks: &Tasks) {
    let Some(file) = config.file.clone() else {
        return;
    };
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP is not heard, and the configuration file not followed");
            return;
        }
    };
    let mut follower = Follower {
        running: config.clone(),
        link: link.clone(),
        certificates: Arc::clone(certificates),
        told: None,
    };
    let inner = tasks.clone();
    tasks.spawn_critical("reload", async move {
        let mut events = FileEvents::start();
        loop {
            let read = inner.spawn_blocking({
                let file = file.clone();
                move || look(&file)
            });
            let Ok((found, loaded)) = read.await else { return };
            follower.take(loaded);
            if events.follow(0, found) == Coverage::Extended {
                // It may have changed between the look and the first watch.
                continue;
            }
            tokio::select! {
                _items = events.changed() => tokio::time::sleep(SETTLED).await,
                _ = hangups.recv() => {
                    tracing::info!(file = %file.display(), "reading the configuration again");
                    follower.told = None;
                }
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}

/// The way to the file first: a link that is swapped between the two is then heard of.
fn look(file: &Path) -> (Vec<Entry>, Result<Config, ConfigErrors>) {
    (entries(file), config::load(file))
}

/// What is in force, and what of the file has been said.
struct Follower {
    running: Config,
    link: Link,
    certificates: Arc<Certificates>,
    /// What was last said about the file: said once, not at every look.
    told: Option<String>,
}

impl Follower {
    fn take(&mut self, loaded: Result<Config, ConfigErrors>) {
        let new = match loaded {
            Ok(new) => new,
            Err(errors) => {
                let problems = errors.to_string();
                if self.is_news(&problems) {
                    tracing::error!(
                        problems,
                        "the configuration file is not right: nothing was changed"
                    );
                }
                return;
            }
        };
        let applied = changes(&self.running.upstream, &new.upstream);
        if !applied.is_empty() {
            if self.running.upstream.ca_file != new.upstream.ca_file {
                let path: PathBuf = new.upstream.ca_file.clone();
                self.certificates.read_upstream_ca_from(path);
            }
            self.link.apply(way::settings(&new.upstream));
            self.running.upstream = Upstream {
                ca_ref: self.running.upstream.ca_ref.clone(),
                ..new.upstream.clone()
            };
            tracing::info!(fields = applied.join(", "), "changed with the configuration file");
        }
        let waiting = need_restart(&self.running, &new).join(", ");
        if self.is_news(&waiting) && !waiting.is_empty() {
            tracing::warn!(
                fields = waiting,
                "changed in the configuration file, in force after a restart"
            );
        }
    }

    fn is_news(&mut self, text: &str) -> bool {
        let news = self.told.as_deref() != Some(text);
        self.told = Some(text.to_owned());
        news
    }
}

/// The names of those pairs that differ.
fn differing(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    let differing = fields.iter().filter(|(_, equal)| !equal);
    differing.map(|(name, _)| *name).collect()
}

/// The fields of `upstream` that changed and can be put in force.
fn changes(old: &Upstream, new: &Upstream) -> Vec<&'static str> {
    let Upstream {
        servers,
        strategy,
        ca_file,
        ca_ref: _,
        proxy,
        interfaces,
        connect_timeout,
        response_timeout,
        probe,
        keep_alive,
    } = old;
    differing(&[
        ("upstream.servers", *servers == new.servers),
        ("upstream.strategy", *strategy == new.strategy),
        ("upstream.caFile", *ca_file == new.ca_file),
        (
            "upstream.proxyURL, proxyCredentialsFile or noProxy",
            *proxy == new.proxy,
        ),
        ("upstream.interfaces", *interfaces == new.interfaces),
        ("upstream.connectTimeout", *connect_timeout == new.connect_timeout),
        (
            "upstream.responseTimeout",
            *response_timeout == new.response_timeout,
        ),
        ("upstream.probe", *probe == new.probe),
        ("upstream.keepAlive", *keep_alive == new.keep_alive),
    ])
}

/// The sections that changed and cannot be put in force. Names every section, so that none is forgotten.
fn need_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        listen,
        upstream,
        clients,
        default_limits,
        certificates,
        cache,
        offline,
        in_cluster,
        log,
        file: _,
    } = running;
    differing(&[
        ("listen.addresses", listen.addresses == new.listen.addresses),
        ("listen.tls", listen.tls == new.listen.tls),
        (
            "listen.dummyInterface",
            listen.dummy_interface == new.listen.dummy_interface,
        ),
        ("upstream.caConfigMapRef", upstream.ca_ref == new.upstream.ca_ref),
        ("clients", *clients == new.clients),
        ("defaultClient", *default_limits == new.default_limits),
        ("certificates", *certificates == new.certificates),
        ("cache", *cache == new.cache),
        ("offline", *offline == new.offline),
        ("inCluster", *in_cluster == new.in_cluster),
        ("log", *log == new.log),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = include_str!("../../examples/minimal.yaml");

    fn parsed(text: &str) -> Config {
        config::parse(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn what_changed_is_named_by_field() {
        let old = parsed(MINIMAL);
        let new = parsed(&format!(
            "{}\nlog: {{level: debug}}\ncertificates: {{retryInterval: 3s}}\n",
            MINIMAL.replace(
                "upstream:\n",
                "upstream:\n  responseTimeout: 9s\n  strategy: roundRobin\n"
            )
        ));
        assert_eq!(
            changes(&old.upstream, &new.upstream),
            ["upstream.strategy", "upstream.responseTimeout"]
        );
        assert_eq!(need_restart(&old, &new), ["certificates", "log"]);
        assert!(changes(&old.upstream, &old.upstream).is_empty() && need_restart(&old, &old).is_empty());
    }
}
