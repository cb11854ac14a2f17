//! The official Python client, in a virtual environment in the user's cache.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{Skip, step};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::process::{Driven, until};

/// A running client.
pub(super) struct Client {
    process: Driven,
}

impl Client {
    /// [`Skip`] says that Python or its packages cannot be had here.
    pub(super) async fn start(cluster: &Cluster, node: &Node, token: &Path) -> anyhow::Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let python = environment(&sources).await?;
        let mut command = Command::new(python);
        command
            .env("KUBERNETES_SERVICE_HOST", node.address.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", node.address.port().to_string())
            .arg(sources.join("client.py"))
            .arg(cluster.dir().join("ca.crt"))
            .arg(token)
            .arg("foreign");
        let process = Driven::start("python", &mut command, node.dir())?;
        Ok(Self { process })
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
        ensure!(holds(&seen, name)?, "the watch has lost something: {seen}");
        Ok(())
    }

    async fn lists(&mut self, name: &str) -> anyhow::Result<()> {
        let answer = self.process.ask("list").await?;
        let names = answer["names"].as_array().context("names")?;
        ensure!(
            answer["code"] == 200 && names.iter().any(|listed| listed == name),
            "Python lists no {name}: {answer}"
        );
        Ok(())
    }

    async fn refused(&mut self, command: &str, codes: &[u64]) -> anyhow::Result<()> {
        let answer = self.process.ask(command).await?;
        let code = answer["code"].as_u64().unwrap_or_default();
        ensure!(
            codes.contains(&code),
            "{command}: expected {codes:?}, got {answer}"
        );
        Ok(())
    }

    /// Waits until the watch has told of it.
    pub(super) async fn sees(&mut self, name: &str) -> anyhow::Result<()> {
        until(&format!("Python sees {name}"), 120, async || {
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

/// The Python of the environment, which is made when it is not there or its requirements have changed.
async fn environment(sources: &Path) -> anyhow::Result<PathBuf> {
    let cache = crate::tools::cache().map_err(Skip)?;
    let wanted = std::fs::read_to_string(sources.join("requirements.txt"))?;
    let dir = cache.join("python");
    let (python, stamp) = (dir.join("bin/python"), dir.join("requirements.stamp"));
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    step("making a Python environment (half a minute the first time)");
    let requirements = sources.join("requirements.txt").display().to_string();
    let (place, program) = (dir.display().to_string(), python.display().to_string());
    for (program, arguments) in [
        ("python3", vec!["-m", "venv", "--clear", &place]),
        (
            &*program,
            vec![
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "-r",
                &requirements,
            ],
        ),
    ] {
        let made = Command::new(program).args(&arguments).output().await;
        let made = made.map_err(|error| Skip(format!("{program} is missing: {error}")))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr);
            let last = said.lines().last().unwrap_or_default();
            return Err(Skip(format!("{program} {}: {last}", arguments.join(" "))).into());
        }
    }
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
