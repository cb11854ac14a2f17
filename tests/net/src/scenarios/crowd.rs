//! Many watches and many short requests on one transport: neither may queue behind the other.

use std::time::{Duration, Instant};

use super::put;
use crate::figures::{Figures, percentile};
use crate::node::{Node, PATIENCE};
use crate::watching::Watching;
use crate::wire::Conditions;

const WATCHES: usize = 500;
const WORKERS: u32 = 200;
const EACH_SECOND: u32 = 2000;

/// A round trip of a good mobile link, so that queueing behind a full connection would show.
const ROUND_TRIP: Duration = Duration::from_millis(40);

pub(super) async fn crowd(node: &Node, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    put(node, "shop", "first", "x");
    node.set(Conditions {
        delay: ROUND_TRIP / 2,
        ..Conditions::GOOD
    });
    let mut alone = requests(node, length).await?;
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.push(Watching::start(&node.client(), &format!("ns-{number}"), "100").await?);
    }
    let mut quiet = events(node, &mut watches, 1, "quiet").await?;
    let (beside, busy) = tokio::join!(requests(node, length), async {
        // The requests have begun.
        tokio::time::sleep(length / 4).await;
        events(node, &mut watches, 2, "busy").await
    });
    let (mut beside, mut busy) = (beside?, busy?);
    figures.note("requests a second, alone and beside 500 watches", {
        let rate = |times: &[Duration]| times.len() as f64 / length.as_secs_f64();
        format!("{:.0}, {:.0}", rate(&alone), rate(&beside))
    });
    for (what, few, many) in [
        ("request", &mut alone, &mut beside),
        ("event", &mut quiet, &mut busy),
    ] {
        let (few, many) = (percentile(few, 99), percentile(many, 99));
        figures.note(
            &format!("{what}, p99 alone and beside the others"),
            format_args!("{few:?}, {many:?}"),
        );
    }
    // The processor is shared by both ends and the clients: what queueing would add is whole round trips, endlessly.
    let longest = percentile(&mut beside, 100);
    figures.promise("the longest request", longest, Duration::from_secs(1));
    let latest = percentile(&mut busy, 100);
    figures.promise("the latest event", latest, Duration::from_secs(1));
    Ok(())
}

/// Short requests at a steady rate, and how long each took.
async fn requests(node: &Node, length: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let client = node.client();
        workers.spawn(async move {
            let mut connection = client.connect().await?;
            let mut times = Vec::new();
            let began = tokio::time::Instant::now() + Duration::from_secs(1) * worker / EACH_SECOND;
            let mut ticks = tokio::time::interval_at(began, Duration::from_secs(1) * WORKERS / EACH_SECOND);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            while began.elapsed() < length {
                let due = ticks.tick().await;
                let asked = connection.send("GET", "/api/v1/namespaces/shop/configmaps/first", "");
                let answer = tokio::time::timeout(PATIENCE, asked).await??;
                anyhow::ensure!(answer.status == 200, "{}", answer.text());
                // From when it was due: a request that waits for the one before waits too.
                times.push(due.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = workers.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

/// An object for each watch, and how long each event took to arrive.
async fn events(
    node: &Node,
    watches: &mut [Watching],
    count: usize,
    name: &str,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for (number, watching) in watches.iter_mut().enumerate() {
        let written = Instant::now();
        put(node, &format!("ns-{number}"), name, "x");
        // In turns of ten: all at once would measure the stand-in.
        if number % 10 == 9 {
            watching.events(count, PATIENCE).await?;
        }
        times.push(written);
    }
    let mut latencies = Vec::new();
    for (watching, written) in watches.iter_mut().zip(times) {
        let arrived = watching.events(count, PATIENCE).await?;
        latencies.extend(arrived.last().map(|event| event.at - written));
    }
    Ok(latencies)
}
