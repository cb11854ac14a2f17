//! What can go wrong on command.

use std::time::Duration;

use parking_lot::Mutex;

/// What happens to connections that exist when a fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// They go on as if nothing had happened.
    Keep,
    /// They are reset (TCP RST).
    Cut,
}

/// A way to fail. The first three act on whole connections and ignore [`Rule::on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens: connecting gives ECONNREFUSED. The port stays reserved for this server.
    Refuse(Existing),
    /// TCP connects, the TLS handshake never goes on; such a connection stays stuck for good.
    StallHandshake,
    /// Nothing is read or written any more, on old and new connections, and nothing is closed, as if the cable were
    /// cut. When the fault is cleared everything goes on where it stood, as TCP would.
    BlackHole,
    /// The request is read and never answered, not even after the fault is cleared.
    Stall,
    /// The connection is reset (TCP RST) before any byte of the answer; on HTTP/2 all its streams go with it.
    Reset,
    /// HTTP/2: RST_STREAM instead of an answer. HTTP/1.1: the connection is closed.
    ResetStream,
    /// An apiserver's own failure: this code, a `Status` body, an Audit-Id; `Retry-After: 1` with 429 only.
    Status(u16),
    /// A gateway's failure: this code, a page of HTML, no Audit-Id.
    GatewayPage(u16),
    /// This code and a page of HTML, but with an Audit-Id: what stands behind an apiserver, speaking through it.
    PassedPage(u16),
    /// As usual, but without Audit-Id: something on the way takes it off.
    Unaudited,
    /// The answer breaks off after so many bytes of body: RST_STREAM on HTTP/2, a connection closed inside the body
    /// on HTTP/1.1.
    CutBody {
        /// Bytes of body that arrive.
        after_bytes: u64,
    },
    /// `Content-Length` promises more than is sent before the end.
    ShortBody,
    /// The answer begins so much later.
    Delay(Duration),
}

impl Fault {
    /// Only for requests whose target (path and query) begins with `prefix`.
    #[must_use]
    pub fn on(self, prefix: &str) -> Rule {
        Rule::from(self).on(prefix)
    }

    /// Only for the next `n` requests (connections, for [`Fault::StallHandshake`]).
    #[must_use]
    pub fn times(self, n: usize) -> Rule {
        Rule::from(self).times(n)
    }

    fn level(self) -> Level {
        match self {
            Self::Refuse(_) | Self::StallHandshake | Self::BlackHole => Level::Connection,
            _ => Level::Request,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Connection,
    Request,
}

/// A fault with the requests it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(crate) fault: Fault,
    prefix: String,
    part: String,
    method: Option<&'static str>,
    left: Option<usize>,
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            prefix: String::new(),
            part: String::new(),
            method: None,
            left: None,
        }
    }
}

impl Rule {
    /// Only for requests whose target (path and query) begins with `prefix`.
    #[must_use]
    pub fn on(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Only for requests whose target contains `part`, such as `watch=true`.
    #[must_use]
    pub fn containing(mut self, part: &str) -> Self {
        self.part = part.to_owned();
        self
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only for the next `n` requests (connections, for [`Fault::StallHandshake`]).
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.left = Some(n);
        self
    }

    fn hits(&self, method: &str, target: &str) -> bool {
        self.left != Some(0)
            && self.fault.level() == Level::Request
            && self.method.is_none_or(|m| m == method)
            && target.starts_with(&self.prefix)
            && target.contains(&self.part)
    }

    fn spend(&mut self) {
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Rule>>);

impl Faults {
    pub(crate) fn add(&self, rule: Rule) {
        self.0.lock().push(rule);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// The faults of one request: all delays, and the first of the others.
    pub(crate) fn for_request(&self, method: &str, target: &str) -> (Duration, Option<Fault>) {
        let mut delay = Duration::ZERO;
        let mut rules = self.0.lock();
        for rule in rules.iter_mut().filter(|r| r.hits(method, target)) {
            rule.spend();
            match rule.fault {
                Fault::Delay(d) => delay += d,
                other => return (delay, Some(other)),
            }
        }
        (delay, None)
    }

    /// Whether a new connection is to hang in its handshake.
    pub(crate) fn stalls_handshake(&self) -> bool {
        let mut rules = self.0.lock();
        let rule = rules
            .iter_mut()
            .find(|r| r.fault == Fault::StallHandshake && r.left != Some(0));
        rule.map(Rule::spend).is_some()
    }

    pub(crate) fn black_hole(&self) -> bool {
        self.0.lock().iter().any(|r| r.fault == Fault::BlackHole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hits_its_target_so_often_and_no_more() {
        let faults = Faults::default();
        faults.add(Fault::Stall.on("/api/v1/pods").times(1));
        faults.add(
            Rule::from(Fault::Status(503))
                .containing("watch=true")
                .method("GET"),
        );
        let hit = |method, target| faults.for_request(method, target).1;
        assert_eq!(hit("GET", "/apis"), None);
        assert_eq!(hit("GET", "/api/v1/pods?limit=1"), Some(Fault::Stall));
        assert_eq!(hit("GET", "/api/v1/pods?limit=1"), None);
        assert_eq!(hit("GET", "/api/v1/pods?watch=true"), Some(Fault::Status(503)));
        assert_eq!(hit("POST", "/api/v1/pods?watch=true"), None);
    }

    #[test]
    fn delays_add_up_in_front_of_another_fault() {
        let faults = Faults::default();
        faults.add(Fault::Delay(Duration::from_secs(1)).into());
        faults.add(Fault::Delay(Duration::from_secs(2)).into());
        faults.add(Fault::Reset.into());
        assert_eq!(
            faults.for_request("GET", "/"),
            (Duration::from_secs(3), Some(Fault::Reset))
        );
    }
}
