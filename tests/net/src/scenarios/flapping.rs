//! A link that comes and goes: watches must not lose anything, and nothing may pile up.

use std::time::{Duration, Instant};

use super::put;
use crate::figures::Figures;
use crate::node::{Node, PATIENCE};
use crate::watching::Watching;
use crate::wire::Conditions;

const WATCHES: usize = 20;
const HALF: Duration = Duration::from_secs(3);

pub(super) async fn flapping(node: &Node, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let namespace = |number: usize| format!("shop-{number}");
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.push(Watching::start(&node.client(), &namespace(number), "100").await?);
    }
    let (sockets, memory) = node.usage()?;
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < length {
        for conditions in [Conditions::BLACK_HOLE, Conditions::GOOD] {
            node.set(conditions);
            for number in 0..WATCHES {
                put(node, &namespace(number), &format!("event-{written}"), "x");
            }
            written += 1;
            tokio::time::sleep(HALF).await;
        }
    }
    for (number, watching) in watches.iter_mut().enumerate() {
        let events = watching
            .events(written, PATIENCE)
            .await
            .map_err(|error| error.context(format!("watch {number}")))?;
        let wanted = (0..written).map(|event| format!("event-{event}"));
        anyhow::ensure!(
            events
                .iter()
                .map(|event| &event.name)
                .eq(wanted.collect::<Vec<_>>().iter()),
            "watch {number} got {:?}",
            events.iter().map(|event| &event.name).collect::<Vec<_>>()
        );
    }
    let sorted_out = settled(node, sockets).await?;
    figures.note("events for each of 20 watches", written);
    figures.note(
        "sockets before and after",
        format_args!("{sockets}, {sorted_out}"),
    );
    figures.note(
        "resident before and after",
        format_args!("{memory} KiB, {} KiB", node.usage()?.1),
    );
    Ok(())
}

/// Waits until no more sockets are open than before, a few aside: connections that idle.
async fn settled(node: &Node, before: usize) -> anyhow::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (now, _) = node.usage()?;
        if now <= before + 4 {
            return Ok(now);
        }
        anyhow::ensure!(Instant::now() < deadline, "{now} sockets are open, {before} were");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
