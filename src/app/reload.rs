//! Follows the configuration file: what can be changed while edgehold runs is put in force, of the rest the log says that
//! it needs a restart. A broken file changes nothing.
//!
//! Which clients there are and what speaks for them is fixed at the start, since transports and caches hang on it; what
//! they may ask and who goes first is not. What they see rewritten (`inCluster`) is: a watch would change its mind in the middle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{self, Client, Config, ConfigErrors, Upstream};
use crate::runtime::file_mode;
use crate::runtime::files::{Coverage, Entry, FileEvents, entries};
use crate::runtime::tasks::Tasks;
use crate::tls::Certificates;
use crate::upstream::{Credentials, DialSettings, Link, Settings};

use super::clients::Changeable;
use super::notify;

/// How often the file is read again although nobody said that it changed.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long a file must be left alone before it is read: whoever writes it may not be done.
const SETTLED: Duration = Duration::from_millis(100);

/// Follows the file that the configuration came from, if it came from one, for as long as `tasks` runs. SIGHUP has it
/// read at once. What is wrong with it, if anything is, can be followed.
pub(super) fn spawn(
    config: &Config,
    link: &Link,
    certificates: &Arc<Certificates>,
    clients: &Changeable,
    tasks: &Tasks,
) -> watch::Receiver<Option<String>> {
    let fault = watch::Sender::new(None);
    let told = fault.subscribe();
    let Some(file) = config.file.clone() else {
        return told;
    };
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP is not heard, and the configuration file not followed");
            return told;
        }
    };
    let mut follower = Follower {
        running: config.clone(),
        link: link.clone(),
        certificates: Arc::clone(certificates),
        clients: clients.clone(),
        told: None,
        fault,
    };
    let inner = tasks.clone();
    tasks.spawn_critical("reload", async move {
        let mut events = FileEvents::start();
        let mut reloading = false;
        loop {
            let read = inner.spawn_blocking({
                let file = file.clone();
                move || look(&file)
            });
            let Ok((found, loaded)) = read.await else { return };
            follower.take(loaded);
            if std::mem::take(&mut reloading) {
                notify::reloaded(follower.fault.borrow().is_none());
            }
            if events.follow(0, found) == Coverage::Extended {
                // It may have changed between the look and the first watch.
                continue;
            }
            tokio::select! {
                _items = events.changed() => {
                    tokio::time::sleep(SETTLED).await;
                    reloading = true;
                    notify::reloading();
                }
                _ = hangups.recv() => {
                    tracing::info!(file = %file.display(), "reading the configuration again");
                    follower.told = None;
                    reloading = true;
                    notify::reloading();
                }
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
    told
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
    clients: Changeable,
    /// What was last said about the file: said once, not at every look.
    told: Option<String>,
    /// What is wrong with the file as of the last look.
    fault: watch::Sender<Option<String>>,
}

impl Follower {
    fn take(&mut self, loaded: Result<Config, ConfigErrors>) {
        let new = match loaded {
            Ok(new) => new,
            Err(errors) => {
                let problems = errors.to_string();
                self.fault
                    .send_replace(problems.lines().next().map(str::to_owned));
                if self.is_news(&problems) {
                    tracing::error!(
                        problems,
                        "the configuration file is not right: nothing was changed"
                    );
                }
                return;
            }
        };
        self.fault.send_if_modified(|fault| fault.take().is_some());
        let mut applied = changes(&self.running.upstream, &new.upstream);
        if !applied.is_empty() {
            if self.running.upstream.ca_file != new.upstream.ca_file {
                let path: PathBuf = new.upstream.ca_file.clone();
                self.certificates.read_upstream_ca_from(path);
            }
            warn_of_file_mode(&new.upstream);
            self.link.apply(new.upstream.settings.clone());
            self.running.upstream = Upstream {
                ca_ref: self.running.upstream.ca_ref.clone(),
                ..new.upstream.clone()
            };
        }
        let of_clients = take_over(&mut self.running, &new);
        if !of_clients.is_empty() {
            self.clients.put_in_force(&self.running);
            applied.extend(of_clients);
        }
        if !applied.is_empty() {
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
    let Settings {
        servers,
        strategy,
        probe,
        response_timeout,
        compression,
        trust,
        dial,
    } = &old.settings;
    let DialSettings {
        connect_timeout,
        keep_alive,
        proxy,
        interfaces,
    } = dial;
    let now = &new.settings;
    differing(&[
        ("upstream.servers or tlsServerName", *servers == now.servers),
        ("upstream.strategy", *strategy == now.strategy),
        ("upstream.caFile", old.ca_file == new.ca_file),
        (
            "upstream.proxyURL, proxyCredentialsFile or noProxy",
            *proxy == now.dial.proxy,
        ),
        ("upstream.interfaces", *interfaces == now.dial.interfaces),
        (
            "upstream.connectTimeout",
            *connect_timeout == now.dial.connect_timeout,
        ),
        (
            "upstream.responseTimeout",
            *response_timeout == now.response_timeout,
        ),
        ("upstream.compression", *compression == now.compression),
        ("upstream.trustGateway", *trust == now.trust),
        ("upstream.probe", *probe == now.probe),
        ("upstream.keepAlive", *keep_alive == now.dial.keep_alive),
    ])
}

/// A password that others can read is worth a line at the start, and whenever the configuration changes.
pub(super) fn warn_of_file_mode(config: &Upstream) {
    let proxy = config.settings.dial.proxy.as_ref();
    let credentials = proxy.and_then(|proxy| proxy.credentials.as_ref());
    let Some(Credentials::File(path)) = credentials else {
        return;
    };
    if let Some(fault) = std::fs::metadata(path).ok().as_ref().and_then(file_mode::fault) {
        let path = path.display();
        tracing::warn!(%path, "the password for the proxy {fault}: it should be readable by edgehold alone (chmod 600)");
    }
}

/// Takes over what a new configuration says of clients that are served already; the names of the fields that changed.
fn take_over(running: &mut Config, new: &Config) -> Vec<&'static str> {
    let (mut limits, mut priorities) = (true, true);
    for client in &mut running.clients {
        let same = |other: &&Client| other.common_name == client.common_name;
        // One that is served until the next start keeps its limits until then.
        let Some(new) = new.clients.iter().find(same) else {
            continue;
        };
        limits &= client.limits == new.limits;
        priorities &= client.priority == new.priority;
        (client.limits, client.priority) = (new.limits, new.priority);
    }
    let default = running.default_limits == new.default_limits;
    running.default_limits = new.default_limits;
    differing(&[
        ("clients[].limits", limits),
        ("clients[].priority", priorities),
        ("defaultClient.limits", default),
    ])
}

/// Which clients there are, and what speaks for them.
fn identities(clients: &[Client]) -> Vec<Client> {
    let identity = |client: &Client| Client {
        limits: None,
        priority: None,
        ..client.clone()
    };
    clients.iter().map(identity).collect()
}

/// The sections that changed and cannot be put in force. Names every section, so that none is forgotten.
fn need_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        listen,
        upstream,
        clients,
        default_limits: _,
        certificates,
        cache,
        offline,
        in_cluster,
        admin,
        log,
        file: _,
    } = running;
    differing(&[
        ("listen.addresses", listen.addresses == new.listen.addresses),
        ("listen.tls", listen.tls == new.listen.tls),
        (
            "listen.writeTimeout",
            listen.write_timeout == new.listen.write_timeout,
        ),
        (
            "listen.dummyInterface",
            listen.dummy_interface == new.listen.dummy_interface,
        ),
        ("upstream.caConfigMapRef", upstream.ca_ref == new.upstream.ca_ref),
        (
            "clients (names, certificates, secrets)",
            identities(clients) == identities(&new.clients),
        ),
        ("certificates", *certificates == new.certificates),
        ("cache", *cache == new.cache),
        ("offline", *offline == new.offline),
        ("inCluster", *in_cluster == new.in_cluster),
        ("admin", *admin == new.admin),
        ("log", *log == new.log),
    ])
}

#[cfg(test)]
mod reference;

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

    fn with_client(name: &str, more: &str) -> Config {
        let pair = "certFile: /p.crt, keyFile: /p.key";
        let (start, _) = MINIMAL.split_once("\nclients:").unwrap_or((MINIMAL, ""));
        parsed(&format!(
            "{start}\nclients:\n- {{commonName: {name}, {pair}{more}}}\n"
        ))
    }

    #[test]
    fn what_clients_may_ask_is_taken_over_and_who_they_are_is_not() {
        let mut running = with_client("a", ", limits: {qps: 1, burst: 1}");
        let new = with_client("a", ", limits: {qps: 2, burst: 1}, priority: 7");
        assert_eq!(need_restart(&running, &new), Vec::<&str>::new());
        assert_eq!(
            take_over(&mut running, &new),
            ["clients[].limits", "clients[].priority"]
        );
        assert_eq!(running, new);
        assert!(take_over(&mut running, &new).is_empty());

        let other = with_client("b", ", priority: 9");
        assert!(take_over(&mut running, &other).is_empty());
        assert_eq!(running, new, "a client that is still served keeps its limits");
        assert_eq!(
            need_restart(&running, &other),
            ["clients (names, certificates, secrets)"]
        );
    }
}
