//! Programs started for the run: each writes a log file, none outlives its handle.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A report that is much longer hides what it says.
const MOST_SEEN: usize = 2000;

/// A running program. Dropped, it is killed.
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program`; its output is appended to `DIR/NAME.log`.
    pub(crate) fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = append(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            Command::new("kill")
                .args(["-TERM", &id.to_string()])
                .status()
                .await?;
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let status = ended.with_context(|| format!("{} does not end", self.name))??;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Fails, with the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let end = end_of(&self.log, 15).unwrap_or_else(|error| error.to_string());
            bail!("{} has ended ({status}):\n{end}", self.name);
        }
        Ok(())
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The name of its log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its output so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A program that answers each line with a line of JSON.
pub(crate) struct Driven {
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driven {
    /// Starts it; what it says on standard error is appended to `DIR/NAME.log`.
    pub(crate) fn start(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(append(&dir.join(format!("{name}.log")))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let commands = child.stdin.take().context("standard input")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?).lines();
        Ok(Self {
            _child: child,
            commands,
            answers,
        })
    }

    /// One command and its answer.
    pub(crate) async fn ask(&mut self, command: &str) -> anyhow::Result<Value> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let answer = tokio::time::timeout(Duration::from_secs(60), self.answers.next_line())
            .await
            .with_context(|| format!("no answer to {command:?} in time"))??;
        let answer =
            answer.with_context(|| format!("ended instead of answering {command:?}, see its log"))?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// The end of every log below a directory, for whoever cannot look into it any more.
pub(crate) fn ends_of_logs(dir: &Path) -> String {
    let mut text = String::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.ends_with("cache") || path.ends_with("root") {
            // What a store calls a log is no text, and holds Secrets.
        } else if path.is_dir() {
            text.push_str(&ends_of_logs(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let lines = if path.ends_with("edgehold.log") { 60 } else { 12 };
            let end = end_of(&path, lines).unwrap_or_else(|error| error.to_string());
            text.push_str(&format!("--- the end of {}\n{end}\n", path.display()));
        }
    }
    text
}

/// The last lines of a file, each cut where nobody reads on.
fn end_of(path: &Path, lines: usize) -> std::io::Result<String> {
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    let end = &all[all.len().saturating_sub(lines)..];
    let cut: Vec<String> = end.iter().map(|line| line.chars().take(400).collect()).collect();
    Ok(cut.join("\n"))
}

/// How much clients log: `E2E_VERBOSITY`; from 8 on, every request with its headers.
pub(crate) fn verbosity() -> String {
    std::env::var("E2E_VERBOSITY").unwrap_or_else(|_| "2".to_owned())
}

fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

fn both_ends(text: &str) -> String {
    let count = text.chars().count();
    if count <= 2 * MOST_SEEN {
        return text.to_owned();
    }
    let head: String = text.chars().take(MOST_SEEN).collect();
    let tail: String = text.chars().skip(count - MOST_SEEN).collect();
    format!("{head}\n[...]\n{tail}")
}

/// Asks again and again until `ready` gives something; says at the deadline what was still missing.
pub(crate) async fn until<T, F>(what: &str, seconds: u64, mut ready: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<Result<T, String>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match ready().await? {
            Ok(value) => return Ok(value),
            Err(missing) if Instant::now() > deadline => {
                let seen = both_ends(&missing);
                bail!("{what}: not within {seconds} s; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
