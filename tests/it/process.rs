//! The real binary as a child process.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver_standin::secrets;

use crate::support::eventually;

/// `edgehold run` on a configuration; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it, not waiting for anything.
    pub fn run(config: &Path) -> Self {
        Self::run_after("", config)
    }

    /// The same from a shell that does something before.
    pub fn run_after(shell: &str, config: &Path) -> Self {
        let script = format!("{shell}\nexec \"$0\" run --config \"$1\"");
        let binary = OsStr::new(env!("CARGO_BIN_EXE_edgehold"));
        let mut child = Command::new("sh")
            .args([OsStr::new("-c"), OsStr::new(&script), binary, config.as_os_str()])
            .env_remove("EDGEHOLD_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                secrets::search("the log of a process", line.as_bytes());
                written.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    /// The first line of its log that has all of these parts, now or later.
    pub async fn logged(&self, parts: &[&str]) -> String {
        let found = || {
            let log = self.log.lock().unwrap();
            log.iter()
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .cloned()
        };
        let what = format!("a log line with {parts:?}");
        eventually(&what, || async { found().is_some() }).await;
        found().unwrap()
    }

    /// Waits until it serves; gives its first address.
    pub async fn address(&self) -> SocketAddr {
        let line = self.logged(&["edgehold is serving", "listen=["]).await;
        let (_, addresses) = line.split_once("listen=[").unwrap();
        let first = addresses.split([',', ']']).next().unwrap();
        first.parse().unwrap_or_else(|_| panic!("no address: {line}"))
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name (`TERM`).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end at most so long.
    pub async fn end_within(&mut self, deadline: Duration) -> ExitStatus {
        let ending = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(deadline, ending).await;
        ended.unwrap_or_else(|_| panic!("it runs on; its log:\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
