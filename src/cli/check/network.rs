//! Whether the servers can be reached, and take what the configured clients show them.
//!
//! Everything is tried at once and once only, each part of the way with a short time limit. Where nobody can be asked (a CA
//! or a pair that is not there yet) nothing is: a missing file has its own warning. What comes from objects of the
//! cluster is left to a running edgehold.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;

use crate::config::{Client, Config};
use crate::tls::{Alpn, ClientTls, PairInfo, PairPaths, Roots, TlsConnectErrorKind, TrustedTime};
use crate::upstream::direct::{Obstacle, Stage};
use crate::upstream::preflight::{self, Answered, Author, Patience};
use crate::upstream::{Endpoint, Route, Trust, UpstreamProxy};

use super::report::{Fault, Report};

/// Somebody waits for it, whatever is configured.
const LONGEST: Duration = Duration::from_secs(5);

/// Who is allowed to read it: everybody, where anonymous requests are allowed at all.
const READY: &str = "/readyz";

/// Everybody who has a name may read it.
const VERSION: &str = "/version";

/// What a gateway lets through that lets nothing else through.
const API: &str = "/api";

/// What one server said.
struct Seen {
    server: String,
    /// Over which interface, if any is configured.
    interface: Option<String>,
    /// What is wrong with those that are preferred to it.
    before: Vec<(String, Obstacle)>,
    nobody: Result<Answered, Obstacle>,
    clients: Vec<(String, Result<Answered, Obstacle>)>,
    /// It gives no connection to who shows no certificate, whatever is asked for.
    only_certificates: bool,
}

/// Asks every server, as nobody and as each client whose pair is there.
pub(super) async fn ask(config: &Config) -> Report {
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
            report.problem(Fault::Certificate, problem);
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
    let way = &config.upstream.settings;
    let patience = Patience {
        connect: way.dial.connect_timeout.min(LONGEST),
        answer: way.probe.timeout.min(LONGEST),
    };
    let servers = config.upstream.urls.iter().zip(&way.servers);
    let looks = servers.map(|(url, endpoint)| {
        let way = Way {
            endpoint: endpoint.clone(),
            proxy: way.dial.proxy.as_ref(),
            interfaces: &way.dial.interfaces,
            patience,
        };
        one(url.clone(), way, &nobody, &clients)
    });
    for seen in join_all(looks).await {
        report.add(&seen, ca, way.trust);
    }
    report
}

/// The pair of a client, if it is one of this machine's files, whole, and the client's own: no other is ever shown.
pub(super) fn own_pair(client: &Client) -> Option<PairInfo> {
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
    proxy: Option<&'c UpstreamProxy>,
    interfaces: &'c [String],
    patience: Patience,
}

impl<'c> Way<'c> {
    async fn look(&self, interface: Option<&str>, tls: &ClientTls, path: &str) -> Result<Answered, Obstacle> {
        let route = Route::new(&self.endpoint, self.proxy, interface);
        let seen = preflight::check(route, tls, path, self.patience).await;
        let is_kept_away = |seen: &Answered| seen.by == Author::Another && !seen.status.is_server_error();
        if !seen.as_ref().is_ok_and(is_kept_away) {
            return seen;
        }
        match preflight::check(route, tls, API, self.patience).await {
            Ok(answered) if answered.by != Author::Another => Ok(answered),
            _ => seen,
        }
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
    let anonymous = nobody;
    let (interface, before, nobody) = way.first(anonymous).await;
    let shown = clients.iter().map(|(name, tls)| {
        let looking = way.look(interface.map(String::as_str), tls, VERSION);
        async { ((*name).to_owned(), looking.await) }
    });
    let clients = join_all(shown).await;
    let is_accepted = |(_, shown): &(String, Result<Answered, Obstacle>)| {
        shown
            .as_ref()
            .is_ok_and(|answered| answered.by != Author::Another)
    };
    let is_refused = |seen: &Result<Answered, Obstacle>| match seen {
        Err(Obstacle::Broken(_)) => true,
        Err(obstacle @ Obstacle::Tls(_)) => !is_its_certificate(obstacle),
        _ => false,
    };
    let only_certificates = is_refused(&nobody)
        && clients.iter().any(is_accepted)
        && is_refused(&way.look(interface.map(String::as_str), anonymous, API).await);
    Seen {
        server,
        interface: interface.cloned(),
        before,
        nobody,
        clients,
        only_certificates,
    }
}

impl Report {
    fn add(&mut self, seen: &Seen, ca: &Path, trust: Trust) {
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
            for away in preferred {
                self.problem(Fault::Unreachable, away);
            }
        }
        match &seen.nobody {
            Ok(answered) => match state(*answered, trust) {
                Ok(state) => self.lines.push(format!("{server}: reached{way}, {state}")),
                Err(wrong) => self.problem(Fault::Unreachable, format!("{server}: {wrong}")),
            },
            Err(obstacle) if is_its_certificate(obstacle) => {
                let hint = format!(
                    "upstream.caFile ({}) must be its authority and the URL one of its names",
                    ca.display()
                );
                self.problem(Fault::Certificate, format!("{server}: {obstacle}; {hint}"));
                return;
            }
            Err(_) if seen.only_certificates => {
                self.lines.push(format!(
                    "{server}: reached{way}, for clients with a certificate alone; tokens of pods cannot go there"
                ));
            }
            Err(obstacle) => {
                self.problem(
                    Fault::Unreachable,
                    format!("{server}{way}: {obstacle}; {}", hint(obstacle)),
                );
                return;
            }
        }
        for (name, shown) in &seen.clients {
            self.client(server, name, shown, trust);
        }
    }

    /// What a server that can be reached says to a client's certificate.
    fn client(&mut self, server: &str, name: &str, shown: &Result<Answered, Obstacle>, trust: Trust) {
        let refused = "the cluster must trust its authority (--client-ca-file of the kube-apiserver)";
        match shown {
            Ok(Answered {
                status: StatusCode::UNAUTHORIZED,
                ..
            }) => self.problem(Fault::Certificate, format!(
                "{server}: does not know the certificate of {name} (401); {refused}, and it must not have expired"
            )),
            Ok(answered) if counts(*answered, trust) => {
                self.lines.push(format!("{server}: accepts {name}"));
            }
            // Said of the server already.
            Ok(_) => {}
            Err(obstacle @ (Obstacle::Tls(_) | Obstacle::Broken(_))) => self.problem(Fault::Certificate, format!(
                "{server}: gives no connection to the certificate of {name}: {obstacle}; {refused}"
            )),
            Err(obstacle) => self.problem(Fault::Unreachable, format!(
                "{server}: with the certificate of {name}: {obstacle}; {}",
                hint(obstacle)
            )),
        }
    }
}

/// Whether an answer is an apiserver's, or is taken for one.
fn counts(answered: Answered, trust: Trust) -> bool {
    match answered.by {
        Author::Apiserver => true,
        Author::Unaudited => trust == Trust::Gateway,
        Author::Another => false,
    }
}

/// What an answer to nobody says of a server.
fn state(answered: Answered, trust: Trust) -> Result<&'static str, String> {
    let status = answered.status;
    match (answered.by, status) {
        (Author::Unaudited, _) if trust == Trust::Audited => Err(
            "answers like a kube-apiserver, but without Audit-Id, so nothing would be kept: let what is on the way \
             pass that header, or see upstream.trustGateway"
                .to_owned(),
        ),
        (Author::Unaudited, status) if status.is_success() => Ok("ready; without Audit-Id, which is trusted"),
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
