//! systemd, as far as install asks it for something: it runs edgehold as its unit says, and kubelet.
//!
//! The unit is read from the machine's disk. ExecStart, Type=notify, StateDirectory, ProtectSystem, the bounded capabilities and
//! NoNewPrivileges are carried out; the rest of the hardening is systemd's own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::net::UnixDatagram;

use super::machine::{Access, Machine};
use crate::process::{Process, verbosity};

/// How long a start may take, on a busy machine.
const START: Duration = Duration::from_secs(90);

/// The node's name.
pub(super) const NODE: &str = "edge-1";

/// What runs on the machine.
pub(super) struct Systemd {
    machine: Machine,
    logs: std::path::PathBuf,
    /// `edgehold.service` as it was when it was last read.
    unit: Option<String>,
    edgehold: Option<Process>,
    kubelet: Option<Process>,
    /// What it was told, in order.
    pub(super) told: Vec<String>,
}

impl Systemd {
    pub(super) fn new(machine: &Machine, logs: &Path) -> Self {
        Self {
            machine: machine.clone(),
            logs: logs.to_owned(),
            unit: None,
            edgehold: None,
            kubelet: None,
            told: Vec::new(),
        }
    }

    /// Fails if something has ended that should run.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let mut running = self.edgehold.iter_mut().chain(&mut self.kubelet);
        running.try_for_each(Process::check)
    }

    /// Runs a command line of the machine to its end and does meanwhile what it asks for.
    pub(super) async fn while_running(&mut self, line: &str) -> anyhow::Result<crate::kubectl::Said> {
        let machine = self.machine.clone();
        let run = machine.run(line);
        tokio::pin!(run);
        loop {
            tokio::select! {
                said = &mut run => return said,
                () = tokio::time::sleep(Duration::from_millis(50)) => self.answer().await?,
            }
        }
    }

    /// Answers each `systemctl` that waits.
    async fn answer(&mut self) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.machine.at("run/systemd/asked"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "ask") {
                continue;
            }
            let asked = fs::read_to_string(&path)?.trim().to_owned();
            fs::remove_file(&path)?;
            let answer = match self.perform(&asked).await {
                Ok(status) => format!("{status}\n"),
                Err(error) => format!("1 {error:#}\n").replace("\n", " ") + "\n",
            };
            self.told.push(asked);
            let (whole, new) = (path.with_extension("said"), path.with_extension("new"));
            fs::write(&new, answer)?;
            fs::rename(new, whole)?;
        }
        Ok(())
    }

    /// The status that `systemctl` ends with.
    pub(super) async fn perform(&mut self, asked: &str) -> anyhow::Result<u8> {
        match asked {
            "is-active --quiet edgehold.service" => return Ok(if self.edgehold.is_some() { 0 } else { 3 }),
            "daemon-reload" => self.unit = self.machine.read("etc/systemd/system/edgehold.service").ok(),
            "enable edgehold.service" => drop(self.setting("WantedBy")?),
            "restart edgehold.service" => {
                self.stop_edgehold().await?;
                self.start_edgehold().await?;
            }
            "disable --now edgehold.service" => self.stop_edgehold().await?,
            "restart kubelet.service" => {
                if let Some(kubelet) = self.kubelet.take() {
                    kubelet.kill().await?;
                }
                self.start_kubelet()?;
            }
            other => bail!("systemctl {other} is nothing that install should ask for"),
        }
        Ok(0)
    }

    fn setting(&self, name: &str) -> anyhow::Result<String> {
        let unit = self.unit.as_deref().context("no unit was read: daemon-reload")?;
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        Ok(line
            .with_context(|| format!("the unit has no {name}"))?
            .to_owned())
    }

    async fn start_edgehold(&mut self) -> anyhow::Result<()> {
        let (program, capabilities) = (self.setting("ExecStart")?, self.setting("CapabilityBoundingSet")?);
        ensure!(
            self.setting("ProtectSystem")? == "strict",
            "the system is not protected"
        );
        ensure!(self.setting("Type")? == "notify", "nobody says when it is ready");
        let state = format!("var/lib/{}", self.setting("StateDirectory")?);
        fs::create_dir_all(self.machine.at(&state))?;
        let bounded: String = capabilities
            .split_whitespace()
            .map(|one| format!(",+{}", one.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let socket = self.machine.at("run/systemd/notify");
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).context("the socket for READY=1")?;
        let bounded = format!("--bounding-set=-all{bounded}");
        let mut words = vec!["setpriv", "--no-new-privs", "--inh-caps=-all", &bounded];
        words.extend(program.split(' '));
        let environment = ["NOTIFY_SOCKET=/run/systemd/notify", "EDGEHOLD_LOG=edgehold=debug"];
        let mut command = self.machine.command(Access::StateDirectory, &environment, &words);
        let mut process = Process::start("edgehold", &mut command, &self.logs)?;
        let mut message = [0; 256];
        let ready = async {
            loop {
                let length = notified.recv(&mut message).await?;
                if message[..length].starts_with(b"READY=1") {
                    return anyhow::Ok(());
                }
            }
        };
        if tokio::time::timeout(START, ready).await.is_err() {
            process.check()?;
            bail!("edgehold is not READY=1 within {START:?}");
        }
        self.edgehold = Some(process);
        Ok(())
    }

    /// As systemd stops a service: SIGTERM, and its end is waited for.
    async fn stop_edgehold(&mut self) -> anyhow::Result<()> {
        match self.edgehold.take() {
            Some(process) => process.terminate().await,
            None => Ok(()),
        }
    }

    /// A power cut, as far as edgehold is concerned, and the start after it.
    pub(super) async fn kill_and_start_edgehold(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.edgehold.take() {
            process.kill().await?;
        }
        self.start_edgehold().await
    }

    fn start_kubelet(&mut self) -> anyhow::Result<()> {
        let (name, verbosity) = (format!("--name={NODE}"), format!("--v={}", verbosity()));
        let words = [
            "/usr/local/bin/kubelet",
            "--morph=kubelet",
            &name,
            &verbosity,
            "--use-host-image-service=false",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--kubelet-port=10250",
            "--kubelet-read-only-port=10255",
        ];
        let mut command = self.machine.command(Access::All, &[], &words);
        self.kubelet = Some(Process::start("kubelet", &mut command, &self.logs)?);
        Ok(())
    }
}
