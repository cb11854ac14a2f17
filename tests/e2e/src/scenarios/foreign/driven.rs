//! A client in another language, in a process of its own, that is told what to do line by line.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::process::{Driven, until};

/// A running client.
pub(super) struct Client {
    name: &'static str,
    process: Driven,
}

impl Client {
    /// As a pod of the node starts it: `command` and the place of CA and token.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        cluster: &Cluster,
        node: &Node,
        token: &Path,
    ) -> anyhow::Result<Self> {
        command
            .env("KUBERNETES_SERVICE_HOST", node.address.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", node.address.port().to_string())
            .arg(cluster.dir().join("ca.crt"))
            .arg(token)
            .arg("foreign");
        let process = Driven::start(name, &mut command, node.dir())?;
        Ok(Self { name, process })
    }

    pub(super) async fn online(&mut self, name: &str) -> anyhow::Result<()> {
        self.lists(name).await?;
        self.refused("secrets", &[403]).await?;
        self.sees(name).await
    }

    pub(super) async fn offline(&mut self, name: &str) -> anyhow::Result<()> {
        self.lists(name).await?;
        self.refused("secrets", &[403, 503]).await?;
        self.refused("create new", &[503]).await?;
        let seen = self.process.ask("seen").await?;
        ensure!(
            holds(&seen, name)?,
            "the watch of {} has lost something: {seen}",
            self.name
        );
        Ok(())
    }

    async fn lists(&mut self, name: &str) -> anyhow::Result<()> {
        let answer = self.process.ask("list").await?;
        let names = answer["names"].as_array().context("names")?;
        ensure!(
            answer["code"] == 200 && names.iter().any(|listed| listed == name),
            "{} lists no {name}: {answer}",
            self.name
        );
        Ok(())
    }

    async fn refused(&mut self, command: &str, codes: &[u64]) -> anyhow::Result<()> {
        let answer = self.process.ask(command).await?;
        let code = answer["code"].as_u64().unwrap_or_default();
        ensure!(
            codes.contains(&code),
            "{}: {command}: expected {codes:?}, got {answer}",
            self.name
        );
        Ok(())
    }

    /// Waits until the watch has told of it.
    pub(super) async fn sees(&mut self, name: &str) -> anyhow::Result<()> {
        until(&format!("{} sees {name}", self.name), 120, async || {
            let seen = self.process.ask("seen").await?;
            Ok(if holds(&seen, name)? {
                Ok(())
            } else {
                Err(seen.to_string())
            })
        })
        .await
    }
}

fn holds(seen: &Value, name: &str) -> anyhow::Result<bool> {
    ensure!(
        seen["deleted"] == Value::Array(Vec::new()),
        "deletions were invented: {seen}"
    );
    let held = seen["held"].as_array().context("held")?;
    Ok(held.iter().any(|held| held == name))
}
