//! edgehold as a process of its own in front of a stand-in apiserver, so that its memory, its processor time and its
//! log are its own. For tests of what only the whole process shows, and for `benches/process.rs`.
#![allow(dead_code)] // the bench and the tests use different parts

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use apiserver_standin::{Client, Existing, Fault, Options, Pair, Standin, secrets};
use http_body_util::BodyExt;
use tokio::sync::watch;

/// How long anything may take before it counts as not happening.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The common name of the client whose certificate every [`Child::client`] shows.
pub const CLIENT: &str = "system:node:edge-1";

/// What the log says when edgehold listens, when a list or watch-list has become a view, and when the recorder was too
/// slow for a list.
const SERVING: &str = "edgehold is serving";
const RECORDED: &str = "view recorded";
const GIVEN_UP: &str = "the recorder is too slow";

/// A stand-in apiserver, and edgehold as a child process in front of it.
pub struct Child {
    /// The cloud.
    pub api: Standin,
    /// Configuration, certificates and cache.
    pub dir: tempfile::TempDir,
    /// The URL of the cloud, if it is another one than [`Child::api`].
    pub cloud: Option<String>,
    pair: Pair,
    process: Option<Process>,
}

struct Process {
    child: std::process::Child,
    address: SocketAddr,
    log: watch::Receiver<Vec<String>>,
}

/// Lines of `/proc/PID/status`, in KiB, and threads.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
    /// Anonymous memory that is resident: without the pages of the program itself.
    pub anonymous: u64,
    /// Threads.
    pub threads: u64,
}

impl Child {
    /// Starts both and waits until edgehold listens.
    pub async fn start(program: &Path, options: Options) -> Self {
        let mut child = Self::prepare(options);
        child.launch(program).await;
        child
    }

    /// Starts the cloud, and writes all that edgehold needs: for [`Child::launch`].
    pub fn prepare(options: Options) -> Self {
        let api = Standin::start(options);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pki = api.pki();
        pki.server(&["localhost", "127.0.0.1"])
            .write_to(dir.path(), "serving");
        let pair = pki.client(Some(CLIENT), &["system:nodes"]);
        pair.write_to(dir.path(), "client");
        pki.write_ca(dir.path(), "ca");
        Self {
            api,
            dir,
            cloud: None,
            pair,
            process: None,
        }
    }

    /// Starts edgehold, again if need be, on what is in the directory.
    pub async fn launch(&mut self, program: &Path) {
        self.stop().await;
        let config = self.dir.path().join("edgehold.yaml");
        #[allow(clippy::disallowed_methods)] // the store has no part in this
        std::fs::write(&config, self.config_text()).expect("a configuration file");
        let mut child = Command::new(program)
            .args(["run", "--config"])
            .arg(&config)
            .env("EDGEHOLD_LOG", "warn,edgehold=info,edgehold::cache=debug")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut log = follow(child.stderr.take().expect("a pipe"));
        let line = waited(&mut log, |line| line.contains(SERVING)).await;
        let address = line
            .split("listen=[")
            .nth(1)
            .and_then(|rest| rest.split(']').next())
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        self.process = Some(Process { child, address, log });
    }

    /// Stops edgehold as systemd does, and waits for its end.
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let pid = process.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.is_ok_and(|status| status.success()), "kill -TERM {pid}");
        let ended = tokio::task::spawn_blocking(move || process.child.wait());
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        assert!(
            ended.is_ok_and(|e| e.is_ok_and(|status| status.is_ok())),
            "it did not stop"
        );
    }

    fn config_text(&self) -> String {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut text = String::from("apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\n");
        let ca = file("ca.crt");
        writeln!(
            text,
            "listen:\n  addresses: [\"127.0.0.1:0\"]\n  tls: {{certFile: {}, keyFile: {}, clientCAFile: {ca}}}",
            file("serving.crt"),
            file("serving.key"),
        )
        .unwrap();
        writeln!(
            text,
            "upstream:\n  servers: [\"{}\"]\n  caFile: {ca}\n  probe: {{interval: 1s, timeout: 1s}}",
            self.cloud.as_deref().unwrap_or(&self.api.url())
        )
        .unwrap();
        writeln!(text, "cache: {{store: file, path: {}}}", file("cache")).unwrap();
        writeln!(
            text,
            "clients:\n- {{commonName: \"{CLIENT}\", certFile: {}, keyFile: {}}}",
            file("client.crt"),
            file("client.key")
        )
        .unwrap();
        text
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("edgehold is running")
    }

    /// A client of edgehold.
    pub fn client(&self) -> Client {
        Client::new(self.process().address, self.api.ca_pem(), Some(&self.pair))
    }

    /// A client of edgehold without a certificate.
    pub fn stranger(&self) -> Client {
        Client::new(self.process().address, self.api.ca_pem(), None)
    }

    /// The certificate that every [`Child::client`] shows.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.process().child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.process().address
    }

    /// The same client, straight to the cloud.
    pub fn direct(&self) -> Client {
        Client::new(self.api.addr(), self.api.ca_pem(), Some(&self.pair))
    }

    /// The cloud refuses connections and resets the open ones; returns when edgehold answers without it.
    pub async fn cut(&self) {
        self.api.fault(Fault::Refuse(Existing::Cut));
        let _any = self.client().get("/version").await;
    }

    /// Its memory now.
    pub fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.id());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number
                .and_then(|n| n.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {path}"))
        };
        Memory {
            resident: field("VmRSS:"),
            peak: field("VmHWM:"),
            anonymous: field("RssAnon:"),
            threads: field("Threads:"),
        }
    }

    /// Its open descriptors now.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        std::fs::read_dir(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .count()
    }

    /// Files in its cache.
    pub fn logs(&self) -> usize {
        let owners = std::fs::read_dir(self.dir.path().join("cache")).expect("a cache");
        let of_owner = owners.filter_map(|owner| std::fs::read_dir(owner.ok()?.path()).ok());
        of_owner.map(Iterator::count).sum()
    }

    /// Sets the peak of [`Memory`] to what is resident now.
    pub fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.id());
        #[allow(clippy::disallowed_methods)] // no file
        std::fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Processor time of all its threads so far, in user and kernel mode.
    pub fn cpu(&self) -> Duration {
        cpu(&self.id().to_string())
    }

    /// Waits until so many lists and watch-lists became views since this start.
    pub async fn recorded(&self, count: usize) {
        let mut log = self.process().log.clone();
        let reached =
            log.wait_for(|lines| lines.iter().filter(|line| line.contains(RECORDED)).count() >= count);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(
            matches!(reached, Ok(Ok(_))),
            "{count} views were not recorded; the log says:\n{}",
            self.log()
        );
    }

    /// How often recording was given up because it slowed the client's stream, since this start.
    pub fn given_up(&self) -> usize {
        let lines = self.process().log.borrow();
        lines.iter().filter(|line| line.contains(GIVEN_UP)).count()
    }

    /// The log since this start.
    pub fn log(&self) -> String {
        self.process().log.borrow().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn follow(stderr: ChildStderr) -> watch::Receiver<Vec<String>> {
    let (lines, log) = watch::channel(Vec::new());
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            secrets::search("the log of a process", line.as_bytes());
            lines.send_modify(|lines: &mut Vec<String>| lines.push(line));
        }
    });
    log
}

async fn waited(log: &mut watch::Receiver<Vec<String>>, wanted: impl Fn(&str) -> bool) -> String {
    let mut other = log.clone();
    let found = other.wait_for(|lines| lines.iter().any(|line| wanted(line)));
    // One look: while a line waits to be written, a second one would wait for that, and the line for the first.
    let found = match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(lines)) => lines.iter().find(|line| wanted(line)).cloned(),
        _ => None,
    };
    found.unwrap_or_else(|| panic!("not in the log: {:#?}", log.borrow()))
}

/// Processor time of a process (`self` or an id), in steps of 10 ms.
pub fn cpu(process: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    // Behind the name, which may hold anything: state, ten numbers, then user and kernel time in ticks of 10 ms.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    Duration::from_millis(10 * ticks)
}

/// An answer that was not kept: its size, and how often a text occurred in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// The status.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: usize,
    /// Occurrences of the text.
    pub found: usize,
}

/// Reads an answer to its end without keeping it.
pub async fn drain(client: &Client, target: &str, text: &[u8]) -> Drained {
    let mut connection = client.connect().await.expect("a connection");
    let mut response = connection
        .open("GET", target, "")
        .await
        .unwrap_or_else(|e| panic!("GET {target}: {e}"));
    let (mut bytes, mut found, mut rest) = (0, 0, Vec::new());
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.unwrap_or_else(|e| panic!("GET {target} after {bytes} bytes: {e}"));
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        if text.is_empty() {
            continue;
        }
        // An occurrence may lie across two frames.
        rest.extend_from_slice(&data);
        found += memchr::memmem::find_iter(&rest, text).count();
        let keep = rest.len().saturating_sub(text.len() - 1);
        rest.drain(..keep);
    }
    Drained {
        status: response.status().as_u16(),
        bytes,
        found,
    }
}
