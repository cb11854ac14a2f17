//! Nothing secret in any output, over the whole suite.
//!
//! Whatever edgehold says in a test is searched for the secrets that the tests have made (`apiserver_standin::secrets`):
//! every line of its log down to trace, the log of every child process, what commands print, metrics with their labels, the names of all files below a node's folder, and in the stand-in's client every answer of 400 and more. A
//! find ends the process at once: it may be said on any thread, where a panic would be caught. That no core file is written,
//! whatever its name, is `cli::a_crash_leaves_no_core_file`.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use apiserver_standin::Rbac;
use apiserver_standin::secrets::{self, search};
use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::support::{Node, write_secret};

/// Set to see edgehold's whole log with what a test prints.
const SHOW: &str = "EDGEHOLD_TEST_LOG";

/// From now on every line of edgehold's log in this process is searched.
pub fn watch_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(Lines);
        let ours = Targets::new().with_target("edgehold", LevelFilter::TRACE);
        let installed = tracing_subscriber::registry().with(lines).with(ours).try_init();
        installed.unwrap_or_else(|error| panic!("edgehold's log is not searched: {error}"));
    });
}

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The warnings in the log of this process, of all its tests, that contain all of these words.
pub fn warnings(words: &[&str]) -> usize {
    let warnings = WARNINGS.lock();
    let said = |line: &&String| words.iter().all(|word| line.contains(word));
    warnings.iter().filter(said).count()
}

#[derive(Clone, Copy)]
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        search("the log", line);
        let text = String::from_utf8_lossy(line);
        if text.contains(" WARN ") {
            WARNINGS.lock().push(text.into_owned());
        }
        if std::env::var_os(SHOW).is_some() {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// The names of everything below a folder are searched, not what is in it: a cache is full of secrets.
pub fn search_names(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        search(
            "the name of a file",
            path.file_name().unwrap_or_default().as_encoded_bytes(),
        );
        if path.is_dir() && !path.is_symlink() {
            search_names(&path);
        }
    }
}

/// Set in the process that must not survive; says by what.
const LEAK: &str = "EDGEHOLD_TEST_LEAK";

const SECRET: &str = "vJ8mQx2ZrT5nWk7LbYd9";

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_any_output_ends_the_suite() {
    if let Ok(by) = std::env::var(LEAK) {
        return leak(&by).await;
    }
    for (by, place) in [
        ("log", "the log"),
        ("span", "the log"),
        ("print", "what a command printed"),
        ("answer", "an answer"),
        ("child", "the log of a process"),
        ("metrics", "the metrics"),
        ("file", "the name of a file"),
    ] {
        let name = "leaks::a_secret_in_any_output_ends_the_suite";
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(LEAK, by)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{by} was not noticed");
        let found = said.lines().find(|line| line.starts_with("LEAKED: "));
        assert!(found.is_some_and(|line| line.contains(place)), "{by}: {said}");
    }
}

/// What edgehold must never do.
async fn leak(by: &str) {
    let mut node = Node::start().await;
    node.api.add_token(SECRET, "eve", &[]);
    match by {
        "log" => {
            let work = move || tracing::trace!(target: "edgehold::leak", token = SECRET, "a request");
            std::thread::spawn(work).join().unwrap();
        }
        "span" => tracing::info_span!(target: "edgehold::leak", "request", token = SECRET)
            .in_scope(|| tracing::warn!(target: "edgehold::leak", "refused")),
        "print" => search("what a command printed", format!("warning: {SECRET}").as_bytes()),
        "answer" => {
            // The cloud's refusal names the user, whose name is the secret; edgehold passes it on.
            node.api.add_token("eve", SECRET, &[]);
            node.api.set_rbac(Rbac::deny_all());
            let refused = node.token_client("eve").get("/api/v1/secrets").await;
            assert!(
                refused.text().contains(SECRET),
                "the test is good: {}",
                refused.text()
            );
        }
        // As if this text, which is the name of a metric, were one.
        "metrics" => {
            secrets::register_token("edgehold_clients_stalled");
            node.stop().await;
        }
        "file" => {
            write_secret(&node.cache_dir().join(SECRET), "");
            node.stop().await;
        }
        "child" => {
            // A process of its own says what is wrong with its configuration, and here that is a secret.
            let path = node.dir.path().join("leak.yaml");
            write_secret(&path, &format!("apiVersion: {SECRET}\n"));
            let mut process = crate::process::Process::run(&path);
            process.end_within(crate::support::DEADLINE).await;
            process.logged(&["never said"]).await;
        }
        other => panic!("{other}?"),
    }
}
