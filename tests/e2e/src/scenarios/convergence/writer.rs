//! Changes at the apiserver: one after the other, so that their order is known.

use std::time::Duration;

use apiserver_standin::{ClientError, Connection};
use tokio::sync::oneshot;

use super::{COLLECTION, OBJECTS};
use crate::cluster::Cluster;
use crate::random::Random;

/// Creates, changes, relabels and deletes ConfigMaps.
pub(in crate::scenarios) struct Writer {
    json: Connection,
    patch: Connection,
    random: Random,
    /// Changes so far.
    pub(in crate::scenarios) count: u64,
}

impl Writer {
    pub(in crate::scenarios) async fn new(cluster: &Cluster, random: Random) -> anyhow::Result<Self> {
        let (json, patch) = connect(cluster).await?;
        Ok(Self {
            json,
            patch,
            random,
            count: 0,
        })
    }

    /// The apiserver is another process now.
    pub(in crate::scenarios) async fn reconnect(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        (self.json, self.patch) = connect(cluster).await?;
        Ok(())
    }

    /// Creates every object.
    pub(in crate::scenarios) async fn fill(&mut self) -> anyhow::Result<()> {
        for number in 0..OBJECTS {
            self.put(number).await?;
        }
        self.count = 0;
        Ok(())
    }

    /// About forty changes a second until told to stop.
    pub(in crate::scenarios) async fn write_until(
        mut self,
        mut stopped: oneshot::Receiver<()>,
    ) -> anyhow::Result<Self> {
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stopped.try_recv().is_err() {
            pace.tick().await;
            self.change().await?;
        }
        Ok(self)
    }

    /// One change of one object.
    pub(in crate::scenarios) async fn change(&mut self) -> anyhow::Result<()> {
        let number = self.random.below(OBJECTS);
        let target = format!("{COLLECTION}/object-{number}");
        match self.random.below(4) {
            0 => self.send("DELETE", &target, "").await.map(drop),
            1 => {
                let colour = self.colour();
                let body = format!(
                    r#"{{"metadata":{{"labels":{{"colour":"{colour}","n":"{}"}}}}}}"#,
                    self.count
                );
                self.send("PATCH", &target, &body).await.map(drop)
            }
            _ => self.put(number).await,
        }
    }

    /// An object that was not there before, in every view.
    pub(in crate::scenarios) async fn last(&mut self) -> anyhow::Result<()> {
        let body = object("last", "red", "last");
        self.send("POST", COLLECTION, &body).await.map(drop)
    }

    /// Updates the object, or makes it if it is not there.
    async fn put(&mut self, number: u64) -> anyhow::Result<()> {
        let name = format!("object-{number}");
        let body = object(&name, self.colour(), &self.count.to_string());
        let target = format!("{COLLECTION}/{name}");
        if self.send("PUT", &target, &body).await? == 404 {
            self.send("POST", COLLECTION, &body).await?;
        }
        Ok(())
    }

    fn colour(&mut self) -> &'static str {
        ["red", "blue"][usize::from(self.random.below(2) == 0)]
    }

    async fn send(&mut self, method: &str, target: &str, body: &str) -> anyhow::Result<u16> {
        let connection = match method {
            "PATCH" => &mut self.patch,
            _ => &mut self.json,
        };
        let answer = connection
            .send(method, target, body.to_owned())
            .await
            .map_err(said)?;
        anyhow::ensure!(
            answer.status < 300 || answer.status == 404,
            "{method} {target}: {}",
            answer.text()
        );
        self.count += u64::from(answer.status < 300);
        Ok(answer.status)
    }
}

async fn connect(cluster: &Cluster) -> anyhow::Result<(Connection, Connection)> {
    let json = cluster.direct().header("content-type", "application/json");
    let patch = cluster
        .direct()
        .header("content-type", "application/merge-patch+json");
    Ok((
        json.connect().await.map_err(said)?,
        patch.connect().await.map_err(said)?,
    ))
}

fn object(name: &str, colour: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"colour":"{colour}"}}}},"data":{{"v":"{value}"}}}}"#
    )
}

fn said(error: ClientError) -> anyhow::Error {
    anyhow::anyhow!(error.0)
}
