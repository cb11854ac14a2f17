//! How the link and its servers are, for people and monitoring: what every text about them says.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::cause::Cause;
use super::condition::Condition;
use super::history::Change;

/// What is wrong with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why it does not answer.
    pub cause: Cause,
    /// What the socket, TLS or the answer said; for the log and status.
    pub detail: String,
    /// When it began.
    pub since: SystemTime,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// `host:port`.
    pub name: String,
    /// How it is.
    pub condition: Condition,
    /// It is back, but not for long enough to be the first choice.
    pub on_trial: bool,
    /// What is wrong with it; `None` while it is online, and before anything is known.
    pub trouble: Option<Trouble>,
}

/// `cloud:6443: connection refused, since 2026-03-01T12:00:00Z`
impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trouble {
            Some(Trouble { cause, since, .. }) => write!(
                f,
                "{}: {cause}, since {}",
                self.name,
                humantime::format_rfc3339_seconds(*since)
            ),
            None => write!(f, "{}: {}", self.name, self.condition.as_str()),
        }
    }
}

/// The link and its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// How the link is: as its best server.
    pub condition: Condition,
    /// Since when.
    pub since: SystemTime,
    /// The servers in the configured order.
    pub servers: Vec<ServerReport>,
    /// How often the cloud has been away in the life of this process.
    pub outages: u64,
    /// It has gone so often within the last minutes that not each time is said.
    pub is_flapping: bool,
    /// How many requests were answered from the cache in the life of this process.
    pub answered_from_cache: u64,
    /// The last changes, the newest first.
    pub changes: Vec<Change>,
    /// How long it was away in each [`SLOT`](super::timeline::SLOT) of the last day, the oldest first; the last one has not ended.
    pub away: Vec<Duration>,
}

impl LinkReport {
    /// Without a past.
    pub(super) fn of(condition: Condition, servers: Vec<ServerReport>) -> Self {
        Self {
            condition,
            since: SystemTime::UNIX_EPOCH,
            servers,
            outages: 0,
            is_flapping: false,
            answered_from_cache: 0,
            changes: Vec::new(),
            away: Vec::new(),
        }
    }

    /// What sockets, TLS and answers said; for the log.
    pub(super) fn details(&self) -> Option<String> {
        let troubles = self.servers.iter().filter_map(|server| server.trouble.as_ref());
        let details: Vec<_> = troubles
            .map(|trouble| trouble.detail.as_str())
            .filter(|text| !text.is_empty())
            .collect();
        (!details.is_empty()).then(|| details.join("; "))
    }

    /// What is wrong with which servers; `None` if nothing is known to be.
    pub fn why(&self) -> Option<String> {
        let troubled = self.servers.iter().filter(|server| server.trouble.is_some());
        let texts: Vec<_> = troubled.map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// One line: `systemctl status` shows it.
impl fmt::Display for LinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.condition {
            Condition::Online => "online: the cloud can be reached",
            Condition::Starting => "starting: the cloud has not answered yet",
            Condition::Suspect => "suspect: the cloud may be away, probing",
            Condition::Offline => "offline: the cloud is away, answering from the cache",
        })?;
        match self.why() {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_each_server_in_trouble_its_cause_and_since_when() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        let server = |name: &str, cause: Option<Cause>| ServerReport {
            name: name.to_owned(),
            condition: cause.map_or(Condition::Online, |_| Condition::Offline),
            on_trial: false,
            trouble: cause.map(|cause| Trouble {
                cause,
                detail: String::new(),
                since,
            }),
        };
        for (condition, servers, expected) in [
            (
                Condition::Offline,
                vec![
                    server("a:6443", Some(Cause::Refused)),
                    server("b:6443", Some(Cause::Name)),
                ],
                "offline: the cloud is away, answering from the cache (a:6443: connection refused, since \
                 2026-03-01T12:00:00Z; b:6443: its name cannot be looked up (DNS), since 2026-03-01T12:00:00Z)",
            ),
            (
                Condition::Online,
                vec![server("a:6443", None), server("b:6443", Some(Cause::Late))],
                "online: the cloud can be reached (b:6443: no answer in time, since 2026-03-01T12:00:00Z)",
            ),
            (
                Condition::Online,
                vec![server("a:6443", None)],
                "online: the cloud can be reached",
            ),
            (
                Condition::Starting,
                vec![],
                "starting: the cloud has not answered yet",
            ),
        ] {
            assert_eq!(LinkReport::of(condition, servers).to_string(), expected);
        }
    }
}
