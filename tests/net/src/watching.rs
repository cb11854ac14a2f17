//! A watch that must not notice: events in order, none twice, none missing, one stream for all of it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use apiserver_standin::Client;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::node::PATIENCE;

/// One event as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// When.
    pub(crate) at: Instant,
    /// `metadata.name` of the object.
    pub(crate) name: String,
}

/// A running watch. Ends with this value.
#[derive(Debug)]
pub(crate) struct Watching {
    events: watch::Receiver<Vec<Arrived>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Watching {
    /// Watches a collection of ConfigMaps in a namespace from this version on, on a connection of its own.
    pub(crate) async fn start(client: &Client, namespace: &str, version: &str) -> anyhow::Result<Self> {
        let target = format!(
            "/api/v1/namespaces/{namespace}/configmaps?watch=true&allowWatchBookmarks=true&resourceVersion={version}"
        );
        let mut connection = client.connect().await?;
        let opened = connection.open_patiently("GET", &target, "".into());
        let response = tokio::time::timeout(PATIENCE, opened).await??;
        anyhow::ensure!(response.status() == 200, "watch: {}", response.status());
        let (sender, events) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let _open = connection;
            let mut body = response.into_body();
            let mut buffer = Vec::new();
            let mut last = 0;
            while let Some(frame) = body.frame().await {
                let data = frame.context("the watch broke")?.into_data().unwrap_or_default();
                buffer.extend_from_slice(&data);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let event: Value = serde_json::from_slice(&line)?;
                    anyhow::ensure!(event["type"] != "ERROR", "the watch got {event}");
                    let metadata = &event["object"]["metadata"];
                    let version: u64 = metadata["resourceVersion"].as_str().unwrap_or_default().parse()?;
                    if event["type"] == "BOOKMARK" {
                        continue;
                    }
                    anyhow::ensure!(version > last, "version {version} after {last}");
                    last = version;
                    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
                    let at = Instant::now();
                    sender.send_modify(|events| events.push(Arrived { at, name }));
                }
            }
            anyhow::bail!("the watch ended")
        });
        Ok(Self { events, task })
    }

    /// Waits until so many events have arrived, and gives them.
    pub(crate) async fn events(&mut self, count: usize, patience: Duration) -> anyhow::Result<Vec<Arrived>> {
        let mut events = self.events.clone();
        let enough = events.wait_for(|events| events.len() >= count);
        let arrived = match tokio::time::timeout(patience, enough).await {
            Ok(arrived) => arrived.ok().map(|events| events.clone()),
            Err(_) => anyhow::bail!("{} of {count} events arrived", self.so_far().len()),
        };
        match arrived {
            Some(events) => Ok(events),
            None => match (&mut self.task).await {
                Ok(Err(error)) => Err(error),
                _ => anyhow::bail!("the watch is gone"),
            },
        }
    }

    /// The events so far.
    pub(crate) fn so_far(&self) -> Vec<Arrived> {
        self.events.borrow().clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}
