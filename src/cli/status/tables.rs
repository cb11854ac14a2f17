//! Answers of the admin listener as people read them. Pure: text in columns, and nothing in it that steers a terminal.

use std::fmt::Write as _;

use comfy_table::{Table, presets};

use crate::admin::status::{CacheListing, CertificateFile, ServerStatus, Status};

/// The whole of `edgehold status`.
pub(super) fn status(status: &Status) -> String {
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
        text.push_str(&table(["PROBLEM", "SEVERITY", "SINCE", "WHAT"], rows));
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
        text.push_str(&table(["CLIENT", "CONNECTIONS", "STREAMS", "PAIR"], rows));
    }
    text.push('\n');
    text.push_str(&certificates(&status.certificates));
    if !link.changes.is_empty() {
        let rows = link.changes.iter().map(|change| {
            let why = change.why.clone().unwrap_or_default();
            [change.at.clone(), change.to.clone(), why]
        });
        text.push('\n');
        text.push_str(&table(["CHANGED", "LINK", "WHY"], rows));
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
    table(["SERVER", "STATE", "SINCE", "CAUSE"], rows)
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
        ["CERTIFICATE", "KIND", "STATE", "DAYS LEFT", "FILE", "PROBLEM"],
        rows,
    )
}

/// The whole of `edgehold cache ls`.
pub(super) fn listing(listing: &CacheListing) -> String {
    let rows = listing.items.iter().map(|item| {
        let namespace = match (&item.resource, &item.namespace) {
            (Some(_), None) => "(all)".to_owned(),
            (_, namespace) => namespace.clone().unwrap_or_default(),
        };
        [
            item.owner.clone(),
            item.resource.clone().unwrap_or_else(|| item.kind.clone()),
            namespace,
            item.selector.clone().unwrap_or_default(),
            item.form.clone().unwrap_or_default(),
            item.bytes.to_string(),
            item.modified.clone(),
        ]
    });
    table(
        [
            "OWNER",
            "RESOURCE",
            "NAMESPACE",
            "SELECTOR",
            "FORM",
            "BYTES",
            "CHANGED",
        ],
        rows,
    )
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Without anything that ends a line or steers a terminal: names come from requests.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers =
            c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if steers {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_nothing_steers_the_terminal() {
        let rows = [
            ["cloud:6443".to_owned(), "offline".to_owned()],
            ["a\u{1b}[31m".to_owned(), "online".to_owned()],
        ];
        let text = table(["SERVER", "STATE"], rows.into_iter());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVER       STATE",
                "cloud:6443   offline",
                "a\\u{1b}[31m  online"
            ]
        );
    }
}
