//! The cloud is gone, at once or silently, and comes back.

use std::time::{Duration, Instant};

use apiserver_standin::{Existing, Fault};

use super::{list, put};
use crate::figures::{Figures, percentile};
use crate::node::{DOUBTED, Node, OFFLINE, PATIENCE};
use crate::watching::Watching;
use crate::wire::Conditions;

/// Reads to take the 99th percentile of.
const READS: usize = 500;

/// A read from the cache takes no longer, 99 of 100.
const CACHED: Duration = Duration::from_millis(10);

/// `upstream.responseTimeout`, whose default the node has.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// `upstream.probe.timeout`, likewise.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Watches are live again so soon after the link is.
const LIVE_AGAIN: Duration = Duration::from_secs(3);

pub(super) async fn refused(node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    let mut watching = prepare(node).await?;
    node.api.fault(Fault::Refuse(Existing::Cut));
    let first = cached_read(node).await?;
    figures.note("first answer after the cut", format_args!("{first:?}"));
    cached_reads(node, figures).await?;
    node.logged_since(Instant::now() - PATIENCE, OFFLINE).await?;
    put(node, "shop", "while-away", "x");
    let back = Instant::now();
    node.api.clear_faults();
    live_again(&mut watching, 1, back, figures).await
}

pub(super) async fn black_hole(node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    let mut watching = prepare(node).await?;
    let began = Instant::now();
    node.set(Conditions::BLACK_HOLE);
    let noticed = node.logged_since(began, DOUBTED).await? - began;
    figures.promise("noticed by idle watches alone", noticed, Duration::from_secs(5));
    // The probe is given its time before the cache answers; what comes later waits for nothing.
    let first = cached_read(node).await?;
    figures.promise(
        "first read after that",
        first,
        PROBE_TIMEOUT + Duration::from_millis(500),
    );
    cached_reads(node, figures).await?;
    put(node, "shop", "while-away", "x");
    let back = Instant::now();
    node.set(Conditions::GOOD);
    live_again(&mut watching, 1, back, figures).await?;

    // Again, and this time a read is the first to notice.
    node.set(Conditions::BLACK_HOLE);
    let first = cached_read(node).await?;
    figures.promise(
        "first read into a black hole",
        first,
        RESPONSE_TIMEOUT + PROBE_TIMEOUT + Duration::from_millis(500),
    );
    cached_reads(node, figures).await?;
    node.logged_since(began, OFFLINE).await?;
    put(node, "shop", "while-away-again", "x");
    let back = Instant::now();
    node.set(Conditions::GOOD);
    live_again(&mut watching, 2, back, figures).await
}

/// A view that the cache knows, and a watch on it.
async fn prepare(node: &Node) -> anyhow::Result<Watching> {
    for number in 0..10 {
        put(node, "shop", &format!("before-{number}"), "x");
    }
    let answer = node.client().get(&list("shop")).await;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    let version = answer.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    Watching::start(&node.client(), "shop", &version).await
}

/// One read that only the cache can answer, on a connection of its own.
async fn cached_read(node: &Node) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = node.client().get(&list("shop")).await;
    let took = began.elapsed();
    let known = answer.json()["items"].as_array().map_or(0, Vec::len);
    anyhow::ensure!(
        answer.status == 200 && known >= 10,
        "{} {known} items",
        answer.status
    );
    anyhow::ensure!(
        !answer.header("cache-status").is_empty(),
        "it did not come from the cache"
    );
    Ok(took)
}

async fn cached_reads(node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    let mut connection = node.client().connect().await?;
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        let answer = connection.send("GET", &list("shop"), "").await?;
        times.push(began.elapsed());
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        anyhow::ensure!(
            !answer.header("cache-status").is_empty(),
            "it did not come from the cache"
        );
    }
    figures.note(
        "cached read, median",
        format_args!("{:?}", percentile(&mut times, 50)),
    );
    figures.promise("cached read, p99", percentile(&mut times, 99), CACHED);
    Ok(())
}

/// The watch that was open all the while gets what it missed.
async fn live_again(
    watching: &mut Watching,
    events: usize,
    back: Instant,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let arrived = watching.events(events, PATIENCE).await?;
    let last = arrived.last().map_or(back, |event| event.at);
    figures.promise(
        "watch live again after the link's return",
        last - back,
        LIVE_AGAIN,
    );
    Ok(())
}
