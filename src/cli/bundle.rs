//! `edgehold bundle`: what somebody needs who is to help from afar, in one file, and nothing secret in it.
//!
//! Each part is there, or it is said why not: where edgehold does not run, what the files of this node say is left.
//! Contents of the cache, certificates and keys are never read for it; the configuration goes in without comments and
//! without credentials. Logs are journald's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::admin::client::AskError;
use crate::admin::status::{API_VERSION, CacheListing, Status};
use crate::config;
use crate::runtime::clock;

use super::ask::{Asker, Output, WhereArgs};
use super::check::{self, Reach};
use super::exit::{Exit, answered, complain};
use super::{cache, status};

/// The directory that the parts are in.
const FOLDER: &str = "edgehold-bundle";

/// Files of Linux that say what machine this is.
const FACTS: [(&str, &str); 6] = [
    ("kernel", "/proc/sys/kernel/osrelease"),
    ("kernelVersion", "/proc/sys/kernel/version"),
    ("system", "/etc/os-release"),
    ("memory", "/proc/meminfo"),
    ("uptime", "/proc/uptime"),
    ("pressure", "/proc/pressure/memory"),
];

/// Characters of a file of facts.
const LARGEST_FACT: usize = 4096;

/// The arguments of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(flatten)]
    at: WhereArgs,
    /// Ask no server whether it can be reached
    #[arg(long)]
    offline: bool,
    /// Where to write it, a new file; `-` for standard output. Without it edgehold-bundle-TIME.tar.gz here
    file: Option<PathBuf>,
}

/// What goes in, and why the rest does not.
#[derive(Default)]
struct Parts {
    parts: Vec<(&'static str, Vec<u8>)>,
    missing: Vec<Missing>,
}

/// A part that is not there.
#[derive(Debug, Serialize)]
struct Missing {
    part: &'static str,
    why: String,
}

/// `about.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct About {
    api_version: &'static str,
    kind: &'static str,
    version: &'static str,
    platform: String,
    created: String,
    processors: Option<usize>,
    /// What the files of Linux say, each as it is.
    facts: serde_json::Map<String, serde_json::Value>,
    parts: Vec<&'static str>,
    missing: Vec<Missing>,
}

/// Writes the bundle.
pub(super) fn run(args: &BundleArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let now = clock::wall();
    let mut parts = Parts::default();
    parts.running(args);
    parts.configuration(&args.at.config);
    parts.check(args);
    let about = parts.about(now);
    for Missing { part, why } in &about.missing {
        complain(err, &format!("edgehold: without {part}: {why}"));
    }
    let packed = serde_json::to_vec_pretty(&about)
        .map_err(io::Error::other)
        .and_then(|about| packed(&about, &parts.parts, now));
    let packed = match packed {
        Ok(packed) => packed,
        Err(error) => {
            complain(err, &format!("edgehold: {error}"));
            return Exit::Failed;
        }
    };
    let path = args.file.clone().unwrap_or_else(|| {
        let stamp: String = humantime::format_rfc3339_seconds(now)
            .to_string()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        PathBuf::from(format!("{FOLDER}-{stamp}.tar.gz"))
    });
    if path.as_os_str() == "-" {
        return answered(out.write_all(&packed).and_then(|()| out.flush()));
    }
    match written(&path, &packed) {
        Ok(()) => answered(writeln!(out, "{}", path.display())),
        Err(error) => {
            complain(err, &format!("edgehold: {}: {error}", path.display()));
            Exit::Failed
        }
    }
}

impl Parts {
    fn add(&mut self, part: &'static str, content: impl Into<Vec<u8>>) {
        self.parts.push((part, content.into()));
    }

    fn lacks(&mut self, part: &'static str, why: impl Into<String>) {
        let why = why.into();
        self.missing.push(Missing { part, why });
    }

    /// What the running edgehold says.
    fn running(&mut self, args: &BundleArgs) {
        const PATHS: [(&str, &str); 4] = [
            ("status.json", "/status"),
            ("readyz.txt", "/readyz?verbose"),
            ("metrics.txt", "/metrics"),
            ("cache.json", "/cache"),
        ];
        // What is wrong with the configuration may quote it.
        let asker = match Asker::new(&args.at, &mut io::sink()) {
            Ok(asker) => asker,
            Err(_) => {
                let why = "nobody can be asked: `edgehold status` says why";
                return PATHS.iter().for_each(|(part, _)| self.lacks(part, why));
            }
        };
        for (part, path) in PATHS {
            match asker.get(path) {
                Ok(body) => self.add(part, body),
                // One that is not ready says why.
                Err(AskError::Refused { said, status, .. }) if status.as_u16() == 503 => self.add(part, said),
                Err(error) => self.lacks(part, error.to_string()),
            }
        }
        self.add_table::<Status>("status.json", "status.txt", status::tables::status);
        self.add_table::<CacheListing>("cache.json", "cache.txt", cache::listing);
    }

    /// The same as one of the parts, for people.
    fn add_table<T: serde::de::DeserializeOwned>(
        &mut self,
        of: &str,
        part: &'static str,
        table: impl FnOnce(&T) -> String,
    ) {
        let Some((_, body)) = self.parts.iter().find(|(part, _)| *part == of) else {
            return;
        };
        match serde_json::from_slice(body) {
            Ok(value) => self.add(part, table(&value)),
            Err(error) => self.lacks(part, format!("of another version: {error}")),
        }
    }

    fn configuration(&mut self, path: &Path) {
        match config::without_credentials(path) {
            Ok(config) => self.add("config.json", config),
            Err(why) => self.lacks("config.json", why),
        }
    }

    fn check(&mut self, args: &BundleArgs) {
        let reach = match args.offline {
            true => Reach::Files,
            false => Reach::Servers,
        };
        let mut report = Vec::new();
        check::check(&args.at.config, reach, Output::Json, &mut report, &mut io::sink());
        match report.is_empty() {
            true => self.lacks(
                "check.json",
                "the configuration is wrong: `edgehold check` says where",
            ),
            false => self.add("check.json", report),
        }
    }

    fn about(&mut self, now: SystemTime) -> About {
        let facts = FACTS.iter().filter_map(|(fact, path)| {
            let said = std::fs::read_to_string(path).ok()?;
            let said: String = said.trim_end().chars().take(LARGEST_FACT).collect();
            Some(((*fact).to_owned(), serde_json::Value::String(said)))
        });
        About {
            api_version: API_VERSION,
            kind: "Bundle",
            version: env!("CARGO_PKG_VERSION"),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            created: humantime::format_rfc3339_seconds(now).to_string(),
            processors: std::thread::available_parallelism().map(usize::from).ok(),
            facts: facts.collect(),
            parts: self.parts.iter().map(|(part, _)| *part).collect(),
            missing: std::mem::take(&mut self.missing),
        }
    }
}

fn packed(about: &[u8], parts: &[(&'static str, Vec<u8>)], now: SystemTime) -> io::Result<Vec<u8>> {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let parts = parts.iter().map(|(part, content)| (*part, content.as_slice()));
    for (part, content) in [("about.json", about)].into_iter().chain(parts) {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("{FOLDER}/{part}"), content)?;
    }
    archive.into_inner()?.finish()
}

/// A new file, for its owner only: it says whose data is on the node.
fn written(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
