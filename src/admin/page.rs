//! `GET /`: the status as one page that needs nothing else, no outside request and for the essentials no script. Pure.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::status::{
    CacheListing, CacheStatus, CertificateFile, ClientStatus, LinkStatus, Problem, ServerStatus, Status,
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Without a script the browser asks again after so many seconds.
const RELOAD: &str = "10";

/// So many logs of the cache are shown.
const MOST_VIEWS: usize = 200;

/// A certificate that ends sooner stands out.
const FEW_DAYS: i64 = 30;

/// Nothing but the page's own style and script, and no request but to edgehold itself.
/// <https://www.w3.org/TR/CSP3/>
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The whole page.
pub(super) fn page(status: &Status, cache: &CacheListing) -> String {
    let now = humantime::parse_rfc3339(&status.now).unwrap_or(SystemTime::UNIX_EPOCH);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                noscript { meta http-equiv="refresh" content=(RELOAD); }
                title { "edgehold: " (status.link.state) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "edgehold" }
                    span.dim { (status.version) }
                    span #seen .dim { "as of " (status.now) }
                }
                main {
                    (problems(&status.problems, now))
                    (link(status, now))
                    (servers(&status.servers, now))
                    (certificates(&status.certificates))
                    (clients(&status.clients))
                    (store(&status.cache))
                    (changes(&status.link, now))
                    (views(cache, now))
                }
                footer { "The same as JSON: " code { "/status" } ", " code { "/cache" } "; for monitoring: " code { "/metrics" } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

fn link(status: &Status, now: SystemTime) -> Markup {
    let link = &status.link;
    html! {
        section {
            h2 { "Link to the apiserver" }
            p {
                span.state.(tone(&link.state)) { (link.state) }
                " for " (ago(&link.since, now)) " "
                span.dim { "since " (link.since) }
            }
            @if let Some(why) = &link.why { p.bad { (why) } }
            @if !status.ready { p.bad { "Not ready to serve clients: see /readyz?verbose" } }
            (timeline(link))
            dl {
                (fact("last contact", link.last_contact.as_deref().unwrap_or("never")))
                (fact("outages", &link.outages.to_string()))
                (fact("answered from the cache", &link.answered_from_cache.to_string()))
                (fact("connections of clients", &status.connections.to_string()))
                (fact("listens on", &status.listen.join(", ")))
                (fact("running for", &ago(&status.started, now)))
            }
        }
    }
}

/// A day from left to right, now at the right; what is not known is grey.
fn timeline(link: &LinkStatus) -> Markup {
    let slots = &link.timeline.away_seconds;
    let length = link.timeline.slot_seconds.max(1);
    let day = usize::try_from(86_400 / length)
        .unwrap_or(usize::MAX)
        .max(slots.len());
    let away: u64 = slots.iter().sum();
    let known = humantime::format_duration(Duration::from_secs(length * slots.len() as u64));
    let said = format!(
        "away for {} of the last {known}",
        humantime::format_duration(Duration::from_secs(away))
    );
    let first = day - slots.len();
    html! {
        svg viewBox=(format!("0 0 {day} 20")) preserveAspectRatio="none" role="img" aria-label=(said) {
            title { (said) }
            rect.unknown x="0" y="0" width=(first) height="20" {}
            rect.online x=(first) y="0" width=(slots.len()) height="20" {}
            @for (slot, seconds) in slots.iter().enumerate().filter(|(_, seconds)| **seconds > 0) {
                // Short ones are seen as well.
                @let height = (seconds.min(&length) * 20).div_ceil(length).max(4);
                rect.away x=(first + slot) y=(20 - height) width="1" height=(height) {}
            }
        }
        div.axis { span { "24 h ago" } span { (said) } span { "now" } }
    }
}

/// What each code means is in docs/troubleshooting.md.
fn problems(problems: &[Problem], now: SystemTime) -> Markup {
    let rows = problems.iter().map(|problem| {
        let tone = if problem.severity == "critical" {
            "bad"
        } else {
            "warn"
        };
        let since = problem.since.as_deref();
        vec![
            html! { span.(tone) { (problem.severity) } },
            html! { code { (problem.code) } },
            text(&problem.message),
            text(
                &since
                    .map(|since| format!("for {}", ago(since, now)))
                    .unwrap_or_default(),
            ),
        ]
    });
    table(
        "Problems",
        &["severity", "code", "what is wrong", "since"],
        rows.collect(),
    )
}

fn servers(servers: &[ServerStatus], now: SystemTime) -> Markup {
    let rows = servers.iter().map(|server| {
        let trouble = server.trouble.as_ref();
        let state = match server.on_trial {
            true => format!("{}, on trial", server.state),
            false => server.state.clone(),
        };
        let cause = trouble.map_or_else(Markup::default, |trouble| {
            html! { (trouble.message) @if !trouble.detail.is_empty() { " " span.dim { (trouble.detail) } } }
        });
        let since = trouble.map(|trouble| format!("for {}", ago(&trouble.since, now)));
        vec![
            text(&server.name),
            html! { span.(tone(&server.state)) { (state) } },
            text(&since.unwrap_or_default()),
            cause,
        ]
    });
    table("Servers", &["server", "state", "since", "cause"], rows.collect())
}

fn certificates(files: &[CertificateFile]) -> Markup {
    let rows = files.iter().map(|file| {
        let tone = match (file.state.as_str(), file.days_left) {
            ("current", Some(days)) if days < FEW_DAYS => "warn",
            ("current", _) => "good",
            _ => "bad",
        };
        vec![
            text(&file.name),
            html! { span.(tone) { (file.state) } @if let Some(error) = &file.error { " " span.dim { (error) } } },
            text(&file.days_left.map(|days| format!("{days} days")).unwrap_or_default()),
            html! { code { (file.path) } },
        ]
    });
    table(
        "Certificates",
        &["certificate", "state", "left", "file"],
        rows.collect(),
    )
}

fn clients(clients: &[ClientStatus]) -> Markup {
    let rows = clients.iter().map(|client| {
        vec![
            text(&client.name),
            text(&client.connections.to_string()),
            text(&client.streams.to_string()),
            html! { @if client.refused { span.bad { "the apiserver answers 401 to its certificate" } } },
        ]
    });
    table(
        "Clients",
        &["client", "connections upstream", "requests under way", "problem"],
        rows.collect(),
    )
}

fn store(cache: &CacheStatus) -> Markup {
    let troubled = cache.damaged + cache.failures > 0;
    html! {
        section {
            h2 { "Cache" }
            @if cache.place != "file" { p.bad { "In memory only: it is lost when the process ends" } }
            dl {
                (fact("size", &format!("{} of {}", bytes(cache.bytes), bytes(cache.max_bytes))))
                (fact("logs", &cache.logs.to_string()))
                (fact("evicted", &cache.evicted.to_string()))
                div { dt { "damaged" } dd.(if troubled { "bad" } else { "" }) { (cache.damaged) } }
                div { dt { "failed writes" } dd.(if troubled { "bad" } else { "" }) { (cache.failures) } }
                (fact("directory", &cache.path))
            }
        }
    }
}

fn changes(link: &LinkStatus, now: SystemTime) -> Markup {
    let rows = link.changes.iter().map(|change| {
        vec![
            text(&format!("{} ago", ago(&change.at, now))),
            html! { span.(tone(&change.to)) { (change.to) } },
            text(change.why.as_deref().unwrap_or_default()),
            text(&change.at),
        ]
    });
    table("Last changes", &["when", "link", "why", "at"], rows.collect())
}

fn views(cache: &CacheListing, now: SystemTime) -> Markup {
    let views: Vec<_> = cache
        .items
        .iter()
        .filter(|entry| entry.resource.is_some())
        .collect();
    let rows = views.iter().take(MOST_VIEWS).map(|view| {
        vec![
            text(view.resource.as_deref().unwrap_or_default()),
            text(view.namespace.as_deref().unwrap_or("(all)")),
            text(view.selector.as_deref().unwrap_or_default()),
            text(&view.owner),
            text(&bytes(view.bytes)),
            text(&format!("{} ago", ago(&view.modified, now))),
        ]
    });
    let columns = ["resource", "namespace", "selector", "whose", "size", "changed"];
    html! {
        (table("Known offline", &columns, rows.collect()))
        @if views.len() > MOST_VIEWS { p.dim { "and " (views.len() - MOST_VIEWS) " more: edgehold cache ls" } }
    }
}

/// A card with a table, or nothing if it has no rows. On a narrow screen each row is a block, each cell with its label.
fn table(title: &str, columns: &[&str], rows: Vec<Vec<Markup>>) -> Markup {
    html! {
        @if !rows.is_empty() {
            section {
                h2 { (title) }
                table {
                    thead { tr { @for column in columns { th { (column) } } } }
                    tbody {
                        @for row in rows {
                            tr {
                                @for (column, cell) in columns.iter().zip(row) {
                                    td.empty[cell.0.is_empty()] data-label=(column) { div { (cell) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn text(text: &str) -> Markup {
    html! { (text) }
}

/// The class of a state of the link or of a server.
fn tone(state: &str) -> &'static str {
    match state {
        "online" => "good",
        "offline" => "bad",
        _ => "warn",
    }
}

/// How long ago, in its two largest units: `2h 5m`.
fn ago(moment: &str, now: SystemTime) -> String {
    let Ok(moment) = humantime::parse_rfc3339(moment) else {
        return "an unknown time".to_owned();
    };
    let passed = now.duration_since(moment).unwrap_or_default();
    let whole = humantime::format_duration(Duration::from_secs(passed.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// In binary units, to one decimal.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut unit) = (count as f64, "B");
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{scaled:.1} {unit}")
    }
}
