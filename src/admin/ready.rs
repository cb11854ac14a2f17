//! `/readyz`: whether clients can be served, check by check. Pure.
//!
//! Ready means that this node's clients get answers, from the cloud or from the cache: an outage does not make edgehold
//! unready, or every node would restart its pods for it.

use std::fmt::Write as _;

use crate::upstream::{Condition, LinkReport};

use super::problems::{self, Finding};

/// One check with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What speaks against it.
    pub(super) fault: Option<String>,
    /// What a person should know although it is well.
    pub(super) remark: Option<String>,
}

/// All checks, in the order in which they are shown.
pub(super) fn checks(findings: &[Finding], link: &LinkReport) -> Vec<Check> {
    let checks = problems::Check::ALL.into_iter().map(|check| {
        let said = |stops: bool| {
            let of_it = findings
                .iter()
                .filter(|finding| finding.check == check && finding.stops_service == stops);
            let texts: Vec<_> = of_it
                .map(|finding| format!("{} ({})", finding.message, finding.code.as_str()))
                .collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        };
        let unsettled = || {
            let is_link = check == problems::Check::Link && link.condition != Condition::Online;
            is_link.then(|| link.to_string())
        };
        Check {
            name: check.as_str(),
            fault: said(true),
            remark: said(false).or_else(unsettled),
        }
    });
    checks.collect()
}

/// As kube-apiserver shows its own.
pub(super) fn text(checks: &[Check], verbose: bool) -> (bool, String) {
    let ready = checks.iter().all(|check| check.fault.is_none());
    if ready && !verbose {
        return (true, "ok".to_owned());
    }
    let mut text = String::new();
    for Check { name, fault, remark } in checks {
        let _infallible = match (fault, remark) {
            (Some(fault), _) => writeln!(text, "[-]{name} failed: {fault}"),
            (None, Some(remark)) => writeln!(text, "[+]{name} ok: {remark}"),
            (None, None) => writeln!(text, "[+]{name} ok"),
        };
    }
    text.push_str(if ready {
        "readyz check passed\n"
    } else {
        "readyz check failed\n"
    });
    (ready, text)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::problems::Severity;
    use super::*;
    use crate::runtime::problem::Code;

    fn finding(code: Code, check: problems::Check, stops_service: bool) -> Finding {
        Finding {
            code,
            severity: Severity::Critical,
            message: "m".to_owned(),
            since: None,
            check,
            stops_service,
        }
    }

    #[test]
    fn what_stops_the_service_fails_and_the_rest_is_only_said() {
        let link = LinkReport {
            condition: Condition::Starting,
            since: SystemTime::UNIX_EPOCH,
            servers: Vec::new(),
            outages: 1,
            is_flapping: false,
            answered_from_cache: 0,
            changes: Vec::new(),
            away: Vec::new(),
        };
        let memory = finding(Code::InMemory, problems::Check::Cache, false);
        let whole = checks(std::slice::from_ref(&memory), &link);
        assert_eq!(text(&whole, false), (true, "ok".to_owned()));
        let (ready, verbose) = text(&whole, true);
        assert!(ready && verbose.contains("[+]link ok: starting: "), "{verbose}");
        assert!(verbose.contains("[+]cache ok: m (EH030)\n"), "{verbose}");
        let serving = finding(
            Code::CertificateMissing,
            problems::Check::ServingCertificate,
            true,
        );
        let (ready, text) = text(&checks(&[serving, memory], &link), false);
        assert!(!ready);
        assert!(
            text.contains("[-]serving-certificate failed: m (EH010)\n"),
            "{text}"
        );
        assert!(text.ends_with("readyz check failed\n"), "{text}");
    }
}
