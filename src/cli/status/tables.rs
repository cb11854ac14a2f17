//! The status as people read it. Pure.

use std::fmt::Write as _;

use crate::admin::status::{CertificateFile, ServerStatus, Status};
use crate::cli::columns::{plain, table};

/// The whole of `edgehold status`.
pub(in crate::cli) fn status(status: &Status) -> String {
    let mut text = String::new();
    let ready = if status.ready {
        "ready"
    } else {
        "not ready: see /readyz"
    };
    let listen = status.listen.join(", ");
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "edgehold {}: {ready}, since {}, listens on {}, {} connections",
        status.version,
        status.started,
        plain(&listen),
        status.connections
    );
    if !status.problems.is_empty() {
        let rows = status.problems.iter().map(|problem| {
            [
                problem.code.clone(),
                problem.severity.clone(),
                problem.since.clone().unwrap_or_default(),
                problem.message.clone(),
            ]
        });
        text.push_str(&table(&["PROBLEM", "SEVERITY", "SINCE", "WHAT"], rows));
        let _ = writeln!(text, "what to do about each: docs/troubleshooting.md\n");
    }
    let link = &status.link;
    let _ = writeln!(text, "link: {} since {}", link.state, link.since);
    if let Some(why) = &link.why {
        let _ = writeln!(text, "  {}", plain(why));
    }
    let contact = link.last_contact.as_deref().unwrap_or("never");
    let _ = writeln!(
        text,
        "last contact: {contact}; outages: {}; answered from the cache: {}",
        link.outages, link.answered_from_cache
    );
    let cache = &status.cache;
    let _ = writeln!(
        text,
        "cache: {} of {} bytes in {} logs, {}; damaged: {}, evicted: {}, failed writes: {}",
        cache.bytes,
        cache.max_bytes,
        cache.logs,
        if cache.place == "file" {
            plain(&cache.path)
        } else {
            "IN MEMORY ONLY".to_owned()
        },
        cache.damaged,
        cache.evicted,
        cache.failures
    );
    text.push('\n');
    text.push_str(&servers(&status.servers));
    if !status.clients.is_empty() {
        let rows = status.clients.iter().map(|client| {
            let pair = if client.refused {
                "401 from the apiserver"
            } else {
                ""
            };
            [
                client.name.clone(),
                client.connections.to_string(),
                client.streams.to_string(),
                pair.to_owned(),
            ]
        });
        text.push('\n');
        text.push_str(&table(&["CLIENT", "CONNECTIONS", "STREAMS", "PAIR"], rows));
    }
    text.push('\n');
    text.push_str(&certificates(&status.certificates));
    if !link.changes.is_empty() {
        let rows = link.changes.iter().map(|change| {
            let why = change.why.clone().unwrap_or_default();
            [change.at.clone(), change.to.clone(), why]
        });
        text.push('\n');
        text.push_str(&table(&["CHANGED", "LINK", "WHY"], rows));
    }
    text
}

fn servers(servers: &[ServerStatus]) -> String {
    let rows = servers.iter().map(|server| {
        let (since, cause) = match &server.trouble {
            Some(trouble) => (trouble.since.clone(), trouble.message.clone()),
            None => Default::default(),
        };
        let state = match server.on_trial {
            true => format!("{}, on trial", server.state),
            false => server.state.clone(),
        };
        [server.name.clone(), state, since, cause]
    });
    table(&["SERVER", "STATE", "SINCE", "CAUSE"], rows)
}

/// The whole of `edgehold certs`.
pub(super) fn certificates(files: &[CertificateFile]) -> String {
    let rows = files.iter().map(|file| {
        let days = file.days_left.map(|days| days.to_string());
        [
            file.name.clone(),
            file.kind.clone(),
            file.state.clone(),
            days.unwrap_or_default(),
            file.path.clone(),
            file.error.clone().unwrap_or_default(),
        ]
    });
    table(
        &["CERTIFICATE", "KIND", "STATE", "DAYS LEFT", "FILE", "PROBLEM"],
        rows,
    )
}
