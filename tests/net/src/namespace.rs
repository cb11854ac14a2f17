//! Network namespaces: the one of this whole process, and the edge's inside it. Both end with their processes.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::Context as _;

/// Set in the process that already runs in a namespace of its own.
const INSIDE: &str = "EDGEHOLD_NET_INSIDE";

/// What this machine lacks to run any of it.
pub(crate) fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    for (program, argument) in [("ip", "-V"), ("unshare", "-V"), ("nsenter", "-V")] {
        let found = Command::new(program)
            .arg(argument)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!(
                "`{program}` is not installed (packages iproute2 and util-linux)"
            ));
        }
    }
    let made = Command::new("unshare").args(["--net", "true"]).status();
    match made {
        Ok(status) if status.success() => None,
        _ => Some("this kernel or container allows no network namespaces".to_owned()),
    }
}

/// Whether this process has a network of its own.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again in a network namespace of its own.
pub(crate) fn run_inside(arguments: &[String]) -> ExitCode {
    let own = std::env::current_exe().expect("the path of this program");
    let status = Command::new("unshare")
        .arg("--net")
        .arg(own)
        .args(arguments)
        .env(INSIDE, "1")
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        _ => ExitCode::FAILURE,
    }
}

/// Runs `ip` here.
pub(crate) fn ip(arguments: &str) -> anyhow::Result<()> {
    done(Command::new("ip").args(arguments.split(' ')), arguments)
}

/// The edge's namespace: as long as this lives.
#[derive(Debug)]
pub(crate) struct Edge {
    /// It ends with the pipe to its standard input, so also when this process is killed.
    holder: Child,
}

impl Edge {
    /// A namespace with a loopback and nothing else.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("unshare --net cat")?;
        let edge = Self { holder };
        // unshare leaves this namespace a moment after it was started.
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", edge.pid());
        while std::fs::read_link(&path)? == own {
            std::thread::yield_now();
        }
        edge.ip("link set lo up")?;
        Ok(edge)
    }

    /// A process in it, for `ip link set ... netns PID`.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        done(self.command("ip").args(arguments.split(' ')), arguments)
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.pid().to_string())
            .arg("--net")
            .arg("--")
            .arg(program);
        command
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _gone = self.holder.wait();
    }
}

fn done(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("ip {what}"))?;
    anyhow::ensure!(
        output.status.success(),
        "ip {what}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
