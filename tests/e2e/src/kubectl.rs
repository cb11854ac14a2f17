//! kubectl as a person runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::process::Process;

/// kubectl with one kubeconfig and a home of its own.
#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    spdy: bool,
}

/// What one run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Fails unless kubectl succeeded.
    pub(crate) fn success(self) -> anyhow::Result<Self> {
        ensure!(self.success, "kubectl failed: {self:?}");
        Ok(self)
    }

    /// Fails unless standard output has this text.
    pub(crate) fn shows(self, text: &str) -> anyhow::Result<Self> {
        ensure!(
            self.out.contains(text),
            "kubectl does not show {text:?}: {self:?}"
        );
        Ok(self)
    }

    /// Fails unless standard error has this text.
    pub(crate) fn says(self, text: &str) -> anyhow::Result<Self> {
        ensure!(self.err.contains(text), "kubectl does not say {text:?}: {self:?}");
        Ok(self)
    }
}

impl Kubectl {
    /// `home` takes its discovery cache and its logs.
    pub(crate) fn new(program: &Path, kubeconfig: PathBuf, home: &Path) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig,
            home: home.to_owned(),
            spdy: false,
        }
    }

    /// Makes streams as kubectl did before 1.31.
    pub(crate) fn over_spdy(mut self) -> Self {
        self.spdy = true;
        self
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &str) -> anyhow::Result<Said> {
        self.with_input(arguments, "").await
    }

    /// Runs it to its end with this on standard input.
    pub(crate) async fn with_input(&self, arguments: &str, input: &str) -> anyhow::Result<Said> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("kubectl")?;
        let mut stdin = child.stdin.take().context("standard input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.with_context(|| format!("kubectl {arguments}: not done in time"))??;
        Ok(Said {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Leaves it running, as with `-w`; what it says is in its log.
    pub(crate) fn leave(&self, name: &str, arguments: &str) -> anyhow::Result<Process> {
        Process::start(name, &mut self.command(arguments), &self.home)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("HOME", &self.home)
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .args(arguments.split_whitespace());
        if self.spdy {
            command
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command
    }
}
