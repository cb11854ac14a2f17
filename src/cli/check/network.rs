//! Whether the servers can be reached, and take what the configured clients show them.
//!
//! Everything is tried at once and once only, each part of the way with a short time limit. Where nobody can be asked (a CA
//! or a pair that is not there yet) nothing is: a missing file has its own warning. What comes from objects of the
//! cluster is left to a running edgehold.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use crate::config::{Client, Config};
use crate::tls::{Alpn, ClientTls, PairInfo, PairPaths, Roots, TlsConnectErrorKind, TrustedTime};
use crate::upstream::look::{self, Answered, Author, Obstacle, Patience, Stage};
use crate::upstream::{Endpoint, HttpProxy};

/// Somebody waits for it, whatever is configured.
const LONGEST: Duration = Duration::from_secs(5);

/// Who is allowed to read it: everybody, where anonymous requests are allowed at all.
const READY: &str = "/readyz";

/// Everybody who has a name may read it.
const VERSION: &str = "/version";

/// Lines for a person, and what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) lines: Vec<String>,
    pub(super) certificates: Vec<String>,
    pub(super) unreachable: Vec<String>,
}

/// Asks every server, as nobody and as each client whose pair is there.
///
/// # Errors
/// No runtime: the machine is out of descriptors or threads.
pub(super) fn look(config: &Config) -> io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(ask(config));
    // A name that is still looked up holds a thread.
    runtime.shutdown_background();
    Ok(report)
}

/// What one server said.
struct Seen {
    server: String,
    /// Over which interface, if any is configured.
    interface: Option<String>,
    /// What is wrong with those that are preferred to it.
    before: Vec<(String, Obstacle)>,
    nobody: Result<Answered, Obstacle>,
    clients: Vec<(String, Result<Answered, Obstacle>)>,
}

async fn ask(config: &Config) -> Report {
    let mut report = Report::default();
    let time = TrustedTime::new();
    let ca = &config.upstream.ca_file;
    let Ok(roots) = Roots::load(ca) else {
        let line = format!("servers not asked: {} cannot be used", ca.display());
        report.lines.push(line);
        return report;
    };
    let connector = |pair: Option<&PairInfo>| {
        let identity = pair.map(PairInfo::identity);
        ClientTls::new(Some(&roots), identity.as_ref(), Alpn::Http1, &time)
    };
    let nobody = match connector(None) {
        Ok(tls) => tls,
        Err(error) => {
            let problem = format!("upstream.caFile: {}: {error}", ca.display());
            report.certificates.push(problem);
            return report;
        }
    };
    let clients: Vec<(&str, ClientTls)> = config
        .clients
        .iter()
        .filter_map(|client| {
            let tls = connector(Some(&own_pair(client)?)).ok()?;
            Some((client.common_name.as_str(), tls))
        })
        .collect();
    let patience = Patience {
        connect: config.upstream.connect_timeout.min(LONGEST),
        answer: config.upstream.probe.timeout.min(LONGEST),
    };
    let looks = config.upstream.servers.iter().filter_map(|server| {
        // Checked when the configuration was read.
        let endpoint = Endpoint::new(&server.host, server.port).ok()?;
        let way = Way {
            endpoint,
            proxy: config.upstream.proxy.as_ref(),
            interfaces: &config.upstream.interfaces,
            patience,
        };
        Some(one(server.original.clone(), way, &nobody, &clients))
    });
    for seen in join_all(looks).await {
        report.add(&seen, ca);
    }
    report
}

/// The pair of a client, if it is one of this machine's files, whole, and the client's own: no other is ever shown.
fn own_pair(client: &Client) -> Option<PairInfo> {
    if client.secret_ref.is_some() {
        return None;
    }
    let paths = PairPaths {
        cert: client.cert_file.clone(),
        key: client.key_file.clone(),
    };
    let pair = PairInfo::load(&paths).ok()?;
    (pair.leaf().common_name.as_ref() == Some(&client.common_name)).then_some(pair)
}

/// The way to one server.
struct Way<'c> {
    endpoint: Endpoint,
    proxy: Option<&'c HttpProxy>,
    interfaces: &'c [String],
    patience: Patience,
}

impl<'c> Way<'c> {
    async fn look(&self, interface: Option<&str>, tls: &ClientTls, path: &str) -> Result<Answered, Obstacle> {
        let way = look::Way {
            endpoint: &self.endpoint,
            proxy: self.proxy,
            interface,
        };
        look::look(way, tls, path, self.patience).await
    }

    /// Looks over every interface at once, and gives the first that leads there, else the last, with what is wrong with those before.
    async fn first(
        &self,
        tls: &ClientTls,
    ) -> (
        Option<&'c String>,
        Vec<(String, Obstacle)>,
        Result<Answered, Obstacle>,
    ) {
        let looks = self.interfaces.iter().map(|interface| {
            let looking = self.look(Some(interface), tls, READY);
            async move { (interface, looking.await) }
        });
        let mut before = Vec::new();
        let mut looked = join_all(looks).await.into_iter().peekable();
        while let Some((interface, seen)) = looked.next() {
            match seen {
                Err(obstacle) if looked.peek().is_some() => before.push((interface.clone(), obstacle)),
                seen => return (Some(interface), before, seen),
            }
        }
        (None, before, self.look(None, tls, READY).await)
    }
}

async fn one(server: String, way: Way<'_>, nobody: &ClientTls, clients: &[(&str, ClientTls)]) -> Seen {
    let (interface, before, nobody) = way.first(nobody).await;
    let shown = clients.iter().map(|(name, tls)| {
        let looking = way.look(interface.map(String::as_str), tls, VERSION);
        async { ((*name).to_owned(), looking.await) }
    });
    Seen {
        server,
        interface: interface.cloned(),
        before,
        nobody,
        clients: join_all(shown).await,
    }
}

impl Report {
    fn add(&mut self, seen: &Seen, ca: &Path) {
        let server = &seen.server;
        let over = |interface: &String| format!(" over {interface}");
        let way = seen.interface.as_ref().map(over).unwrap_or_default();
        let preferred: Vec<String> = seen
            .before
            .iter()
            .map(|(interface, obstacle)| {
                format!("{server}{}: {obstacle}; {}", over(interface), hint(obstacle))
            })
            .collect();
        // As long as one leads there, the others may be away: that is why there are several.
        if seen.nobody.is_ok() {
            self.lines.extend(preferred);
        } else {
            self.unreachable.extend(preferred);
        }
        match &seen.nobody {
            Ok(answered) => match state(*answered) {
                Ok(state) => self.lines.push(format!("{server}: reached{way}, {state}")),
                Err(wrong) => self.unreachable.push(format!("{server}: {wrong}")),
            },
            Err(obstacle) if is_its_certificate(obstacle) => {
                let hint = format!(
                    "upstream.caFile ({}) must be its authority and the URL one of its names",
                    ca.display()
                );
                self.certificates.push(format!("{server}: {obstacle}; {hint}"));
                return;
            }
            Err(obstacle) => {
                self.unreachable
                    .push(format!("{server}{way}: {obstacle}; {}", hint(obstacle)));
                return;
            }
        }
        for (name, shown) in &seen.clients {
            self.client(server, name, shown);
        }
    }

    /// What a server that can be reached says to a client's certificate.
    fn client(&mut self, server: &str, name: &str, shown: &Result<Answered, Obstacle>) {
        let refused = "the cluster must trust its authority (--client-ca-file of the kube-apiserver)";
        match shown {
            Ok(Answered {
                status: StatusCode::UNAUTHORIZED,
                ..
            }) => self.certificates.push(format!(
                "{server}: does not know the certificate of {name} (401); {refused}, and it must not have expired"
            )),
            Ok(Answered {
                by: Author::Apiserver,
                ..
            }) => self.lines.push(format!("{server}: accepts {name}")),
            // Said of the server already.
            Ok(_) => {}
            Err(obstacle @ (Obstacle::Tls(_) | Obstacle::Broken(_))) => self.certificates.push(format!(
                "{server}: gives no connection to the certificate of {name}: {obstacle}; {refused}"
            )),
            Err(obstacle) => self.unreachable.push(format!(
                "{server}: with the certificate of {name}: {obstacle}; {}",
                hint(obstacle)
            )),
        }
    }
}

/// What an answer to nobody says of a server.
fn state(answered: Answered) -> Result<&'static str, String> {
    let status = answered.status;
    match (answered.by, status) {
        (Author::Another, _) => Err(format!(
            "answers {}, but not as a kube-apiserver does (no Audit-Id); the URL must lead to one",
            status.as_u16()
        )),
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Ok("says nothing to nobody"),
        (_, status) if status.is_success() => Ok("ready"),
        _ => Err(format!(
            "is not ready: {READY} says {}; look at the apiserver's own log",
            status.as_u16()
        )),
    }
}

/// Whether the server showed a certificate that is not taken.
fn is_its_certificate(obstacle: &Obstacle) -> bool {
    matches!(obstacle, Obstacle::Tls(error) if matches!(
        error.kind,
        TlsConnectErrorKind::UntrustedServer
            | TlsConnectErrorKind::WrongServerName
            | TlsConnectErrorKind::ServerCertificateTime
            | TlsConnectErrorKind::BadServerCertificate
    ))
}

/// What a person may do about it.
fn hint(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Name(_) => "check the name and this node's resolver, or write an IP address",
        Obstacle::Connect(_) => "check address, port and route; a firewall may refuse",
        Obstacle::Proxy { .. } => {
            "check upstream.proxyURL, its password, and whether the proxy lets this server through"
        }
        Obstacle::Late {
            stage: Stage::Connection,
            ..
        } => "check address and route; a firewall may drop packets",
        Obstacle::Tls(_) => "check that it is the apiserver's https port",
        Obstacle::Broken(_) | Obstacle::Late { .. } => {
            "something answers there: check that it is the apiserver, and what stands before it"
        }
    }
}
