//! `edgehold check`: whether a configuration is right, what it means, which of its files are not there, and whether its
//! servers can be reached and take the certificates of its clients.
//!
//! Fails wherever `run` would fail, keep nothing, or serve nobody. The missing pair of a client is a warning: on a node that
//! has not joined yet it is the normal state. What is in the other files is judged as a running edgehold and its clients would. Each
//! kind of problem has an exit code of its own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::admin::Status;
use crate::admin::status::API_VERSION;
use crate::app::rehearsal::{self, Rehearsal};
use crate::config::{self, CacheStore, Config, DummyInterface, Encryption, MaterialRef, Upstream};
use crate::runtime::clock;
use crate::runtime::file_mode::{self, is_open_to_all};
use crate::setup::lite_apiserver::{self, Flags, Pair};
use crate::tls::{PairInfo, PairPaths};
use crate::upstream::{Credentials, UpstreamProxy};

use self::pairs::Judgement;
use self::report::{Fault, Problem, Report};
use super::ask::Output;
use super::exit::{Exit, answered, complain};

mod network;
mod pairs;
mod report;
mod rights;

/// The arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Look at the files of this machine only, and ask no server
    #[arg(long)]
    offline: bool,
    /// Ask the apiserver as each client whether it may do what the configuration needs
    #[arg(long, conflicts_with = "offline")]
    rights: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Print the configuration that does what a lite-apiserver with this `--tls-config-file` does
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    from_lite_apiserver: Option<PathBuf>,
    /// Its command line, or the arguments of its pod
    #[arg(
        long,
        value_name = "FLAGS",
        requires = "from_lite_apiserver",
        allow_hyphen_values = true
    )]
    lite_apiserver_args: Option<String>,
}

pub(super) fn run(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match &args.from_lite_apiserver {
        Some(path) => {
            let flags = args.lite_apiserver_args.as_deref().unwrap_or_default();
            from_lite_apiserver(path, flags, out, err)
        }
        None => {
            let reach = match (args.offline, args.rights) {
                (true, _) => Reach::Files,
                (false, false) => Reach::Servers,
                (false, true) => Reach::Rights,
            };
            check(&args.config.config, reach, args.output, out, err)
        }
    }
}

/// The translation goes to `out`, what is left to do to `err`.
fn from_lite_apiserver(path: &Path, flags: &str, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let pairs = fs::read_to_string(path)
        .map_err(|error| format!("cannot be read: {error}"))
        .and_then(|json| lite_apiserver::pairs(&json).map_err(|error| error.to_string()));
    let pairs = match pairs {
        Ok(pairs) => pairs,
        Err(error) => {
            complain(err, &format!("{} {error}", path.display()));
            return Exit::Usage;
        }
    };
    let flags = match Flags::parse(flags) {
        Ok(flags) => flags,
        Err(error) => {
            complain(err, &format!("--lite-apiserver-args: {error}"));
            return Exit::Usage;
        }
    };
    let common_name = |pair: &Pair| {
        let paths = PairPaths {
            cert: pair.cert.clone().into(),
            key: pair.key.clone().into(),
        };
        let pair = PairInfo::load(&paths).map_err(|error| error.to_string())?;
        let name = pair.leaf().common_name.clone();
        name.ok_or_else(|| "its certificate has no common name".to_owned())
    };
    let translation = lite_apiserver::translate(&pairs, &flags, &common_name);
    for todo in &translation.todo {
        complain(err, &format!("todo: {todo}"));
    }
    answered(write!(out, "{}", translation.yaml).and_then(|()| out.flush()))
}

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This machine: its files, ports and disk.
    Files,
    /// The servers too.
    Servers,
    /// And what clients may do there.
    Rights,
}

/// Checks the file at `path`. The summary, with what is wrong on this node, goes to `out`; what is wrong in the file goes
/// to `err`, one line each.
pub(super) fn check(
    path: &Path,
    reach: Reach,
    output: Output,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            complain(err, &errors.to_string());
            return Exit::Usage;
        }
    };
    let mut summary = Summary::new(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(err, &format!("edgehold: nothing can be tried: {error}"));
            return Exit::Failed;
        }
    };
    runtime.block_on(async {
        summary.rehearsal(rehearsal::rehearse(&config).await);
        if reach != Reach::Files {
            summary.add(network::ask(&config).await);
        }
        if reach == Reach::Rights {
            summary.add(rights::ask(&config).await);
        }
    });
    // A name that is still looked up holds a thread.
    runtime.shutdown_background();
    let written = match output {
        Output::Table => summary.write(path, out),
        Output::Json => summary.write_json(path, out),
    };
    match answered(written) {
        Exit::Ok => summary.exit(),
        unheard => unheard,
    }
}

fn pair(cert: &Path, key: &Path) -> PairPaths {
    PairPaths {
        cert: cert.to_owned(),
        key: key.to_owned(),
    }
}

/// What was found at the path of a configured file.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    File,
    Nothing,
    NoFile,
    Unreadable(ErrorKind),
}

impl Found {
    fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            // Opening a pipe would wait for its other end.
            Ok(metadata) if !metadata.is_file() => Self::NoFile,
            Ok(_) => File::open(path).map_or_else(|error| Self::Unreadable(error.kind()), |_| Self::File),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Nothing,
            Err(error) => Self::Unreadable(error.kind()),
        }
    }

    /// What a person may do about it.
    fn hint(&self) -> &'static str {
        match self {
            Self::File => "all is well",
            Self::Nothing => "normal on a new node, it is picked up when it appears",
            Self::NoFile => "name a PEM file",
            Self::Unreadable(_) => "let the user that runs edgehold read it",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("found"),
            Self::Nothing => f.write_str("missing"),
            Self::NoFile => f.write_str("not a file"),
            Self::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
        }
    }
}

/// The lines for a person, and what was met on the way.
#[derive(Default)]
struct Summary {
    report: Report,
    /// What may be as it should.
    warnings: Vec<String>,
}

/// As `-o json` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'s> {
    api_version: &'static str,
    kind: &'static str,
    file: String,
    ok: bool,
    exit_code: u8,
    summary: &'s [String],
    warnings: &'s [String],
    problems: Vec<&'s Problem>,
}

impl Summary {
    fn new(config: &Config) -> Self {
        let mut summary = Self::default();
        summary.listen(config);
        summary.upstream(config);
        summary.clients(config);
        summary.in_cluster(config);
        summary.cache(config);
        summary
    }

    /// The gravest first.
    fn problems(&self) -> Vec<&Problem> {
        let mut problems: Vec<_> = self.report.problems.iter().collect();
        problems.sort_by_key(|problem| problem.kind);
        problems
    }

    fn write(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let problems = self.problems();
        match problems.len() {
            0 => writeln!(out, "{}: ok", path.display())?,
            1 => writeln!(out, "{}: 1 problem", path.display())?,
            count => writeln!(out, "{}: {count} problems", path.display())?,
        }
        for line in &self.report.lines {
            writeln!(out, "  {line}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        for problem in problems {
            writeln!(out, "problem: {}", problem.message)?;
        }
        out.flush()
    }

    fn write_json(&self, path: &Path, out: &mut dyn Write) -> io::Result<()> {
        let document = Document {
            api_version: API_VERSION,
            kind: "CheckReport",
            file: path.display().to_string(),
            ok: self.report.problems.is_empty(),
            exit_code: self.exit().code(),
            summary: &self.report.lines,
            warnings: &self.warnings,
            problems: self.problems(),
        };
        serde_json::to_writer_pretty(&mut *out, &document)?;
        writeln!(out)?;
        out.flush()
    }

    fn exit(&self) -> Exit {
        self.problems()
            .first()
            .map_or(Exit::Ok, |problem| problem.kind.exit())
    }

    fn add(&mut self, report: Report) {
        self.report.lines.extend(report.lines);
        self.report.problems.extend(report.problems);
    }

    fn line(&mut self, line: impl Into<String>) {
        self.report.lines.push(line.into());
    }

    /// What only one that runs can know; servers and certificates are looked at here.
    fn running(&mut self, status: &Status) {
        let known_here = |code: &str| code.starts_with("EH01") || matches!(code, "EH001" | "EH002");
        for problem in status
            .problems
            .iter()
            .filter(|problem| !known_here(&problem.code))
        {
            let said = format!("the running edgehold: {}: {}", problem.code, problem.message);
            match problem.severity.as_str() {
                "critical" => self.report.problem(Fault::Start, said),
                _ => self.warnings.push(said),
            }
        }
    }

    fn rehearsal(&mut self, rehearsal: Rehearsal) {
        if let Some(running) = &rehearsal.running {
            self.line(format!(
                "an edgehold {} runs here, since {}",
                running.version, running.started
            ));
            self.running(running);
        }
        self.warnings.extend(rehearsal.doubts);
        for fault in rehearsal.faults {
            self.report.problem(Fault::Start, fault);
        }
    }

    fn listen(&mut self, config: &Config) {
        for address in &config.listen.addresses {
            self.line(format!("listen on {address}"));
            if address.ip().is_unspecified() {
                let warning = format!(
                    "listen.addresses: {address} is reachable from outside the node; prefer 127.0.0.1"
                );
                self.warnings.push(warning);
            }
            if address.port() == 0 {
                let warning =
                    "listen.addresses: port 0 is another port at each start; no client can be told it";
                self.warnings.push(warning.to_owned());
            }
        }
        if let Some(interface) = &config.listen.dummy_interface {
            self.interface(interface, config);
        }
        let tls = &config.listen.tls;
        if let Some(csr) = &tls.csr {
            self.line(format!(
                "serving certificate from {}, asked for as {}, kept in {}",
                csr.signer_name,
                csr.client,
                csr.directory.display()
            ));
        }
        self.taken("serving certificate", tls.secret_ref.as_ref());
        self.taken("more authorities of clients", tls.client_ca_ref.as_ref());
        let own = (tls.csr.is_none() && tls.secret_ref.is_none()).then_some((&tls.cert_file, &tls.key_file));
        if let Some((cert, key)) = own.or(tls.before.as_ref().map(|(cert, key)| (cert, key))) {
            // What the cluster is to issue, or holds, takes its place.
            let absence = match tls.csr.is_some() || tls.secret_ref.is_some() {
                true => Absence::Awaited,
                false => Absence::Fatal("no client gets a connection"),
            };
            self.file("listen.tls.certFile", cert, absence);
            self.key("listen.tls.keyFile", key, absence);
            let own = pair(cert, key);
            self.judge(match tls.csr {
                Some(_) => pairs::serving_at_first(&own, clock::wall()),
                None => pairs::serving(config, &own, clock::wall()),
            });
        }
        if tls.csr.is_some() {
            self.issued(config);
        }
        let absence = match tls.client_ca_ref {
            Some(_) => Absence::Awaited,
            None => Absence::Fatal("no client gets a connection"),
        };
        self.file("listen.tls.clientCAFile", &tls.client_ca_file, absence);
        let field = "listen.tls.clientCAFile";
        self.judge(pairs::authorities(field, &tls.client_ca_file, clock::wall()));
        if let Some(path) = &tls.client_crl_file {
            let field = "listen.tls.clientCRLFile";
            self.file(field, path, Absence::Awaited);
            self.judge(pairs::revoked(field, path, clock::wall()));
        }
    }

    /// The serving certificate from the cluster.
    fn issued(&mut self, config: &Config) {
        let tls = &config.listen.tls;
        if Found::at(&tls.cert_file) == Found::Nothing {
            let warning = "listen.tls.csr: there is no certificate from the cluster yet; whoever trusts the cluster's authority \
                           alone, as pods do, is served once the request is approved: kubectl get csr";
            self.warnings.push(warning.to_owned());
        }
        let issued = pair(&tls.cert_file, &tls.key_file);
        self.judge(pairs::serving(config, &issued, clock::wall()));
    }

    fn judge(&mut self, judgement: Judgement) {
        self.report.lines.extend(judgement.lines);
        self.warnings.extend(judgement.warnings);
        for problem in judgement.problems {
            self.report.problem(Fault::Certificate, problem);
        }
    }

    /// What comes from an object of the cluster.
    fn taken(&mut self, what: &str, from: Option<&MaterialRef>) {
        if let Some(from) = from {
            self.line(format!(
                "{what} from {}/{} in the cluster, read as {}",
                from.namespace, from.name, from.client
            ));
        }
    }

    fn interface(&mut self, interface: &DummyInterface, config: &Config) {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        self.line(format!(
            "interface {} with {}",
            interface.name,
            addresses.join(", ")
        ));
        for address in &interface.addresses {
            let mut listened = config.listen.addresses.iter();
            if !listened.any(|own| own.ip() == *address || own.ip().is_unspecified()) {
                let warning = format!(
                    "listen.dummyInterface.addresses: nothing listens on {address}; add it to listen.addresses"
                );
                self.warnings.push(warning);
            }
        }
    }

    fn upstream(&mut self, config: &Config) {
        let upstream = &config.upstream;
        for url in &upstream.urls {
            self.line(format!("forward to {url}"));
        }
        if let Some(name) = &upstream.tls_server_name {
            self.line(format!("  with a certificate for {name}"));
        }
        if let Some(proxy) = &upstream.settings.dial.proxy {
            self.proxy(proxy, upstream);
        }
        for interface in &upstream.settings.dial.interfaces {
            self.line(format!("  over the interface {interface}"));
            if !Path::new("/sys/class/net").join(interface).exists() {
                let warning =
                    format!("upstream.interfaces: there is no {interface} now; it is skipped until there is");
                self.warnings.push(warning);
            }
        }
        let absence = match upstream.ca_ref {
            Some(_) => Absence::Awaited,
            None => Absence::Fatal("no server is believed"),
        };
        self.file("upstream.caFile", &upstream.ca_file, absence);
        self.judge(pairs::authorities(
            "upstream.caFile",
            &upstream.ca_file,
            clock::wall(),
        ));
        self.taken("more authorities of the servers", upstream.ca_ref.as_ref());
    }

    fn proxy(&mut self, proxy: &UpstreamProxy, upstream: &Upstream) {
        self.line(format!("  through the proxy {proxy}"));
        for (url, server) in upstream.urls.iter().zip(&upstream.settings.servers) {
            if !proxy.serves(&server.host, server.port) {
                self.line(format!("  but {url} without it"));
            }
        }
        match &proxy.credentials {
            None => {}
            Some(Credentials::Given(_)) => {
                self.line("  with the user name and password of its URL".to_owned())
            }
            Some(Credentials::File(path)) => {
                let field = "upstream.proxyCredentialsFile";
                self.file(field, path, Absence::Fatal("the proxy gets no password"));
                if let Some(fault) = fs::metadata(path).ok().as_ref().and_then(file_mode::fault) {
                    let warning = format!("{field}: {} {fault}; chmod 600", path.display());
                    self.warnings.push(warning);
                }
            }
        }
    }

    fn clients(&mut self, config: &Config) {
        for (i, client) in config.clients.iter().enumerate() {
            self.line(format!("client {}", client.common_name));
            match &client.secret_ref {
                None => {
                    self.file(
                        &format!("clients[{i}].certFile"),
                        &client.cert_file,
                        Absence::Awaited,
                    );
                    self.key(
                        &format!("clients[{i}].keyFile"),
                        &client.key_file,
                        Absence::Awaited,
                    );
                    self.judge(pairs::client(config, i, clock::wall()));
                }
                from => self.taken("  certificate", from.as_ref()),
            }
        }
        self.line("clients without a certificate speak with their own tokens".to_owned());
    }

    fn in_cluster(&mut self, config: &Config) {
        let Some(in_cluster) = &config.in_cluster else {
            return;
        };
        for address in &in_cluster.addresses {
            self.line(format!("pods find the API at {address}"));
        }
        for (what, users) in [
            ("Service", &in_cluster.service_for),
            ("endpoints", &in_cluster.endpoints_for),
        ] {
            if !users.is_empty() {
                self.line(format!("  as its {what}, for {}", users.join(", ")));
            }
        }
        if in_cluster.service_for.is_empty() && in_cluster.endpoints_for.is_empty() {
            let warning =
                "inCluster: nobody is told; name kubelet in serviceFor, or kube-proxy in endpointsFor";
            self.warnings.push(warning.to_owned());
        }
        self.warnings
            .extend(in_cluster.unserved(&config.listen.addresses));
    }

    fn cache(&mut self, config: &Config) {
        let cache = &config.cache;
        let size = size(cache.max_size);
        self.line(match cache.store {
            CacheStore::File => format!("cache in {}, at most {size}", cache.path.display()),
            CacheStore::Memory => format!("cache in memory, at most {size}, gone at a restart"),
        });
        match &cache.encryption {
            None => {}
            Some(Encryption::KeyFile(path)) => self.key(
                "cache.encryption.keyFile",
                path,
                Absence::Fatal("nothing is kept on disk"),
            ),
            Some(Encryption::Credential(name)) => {
                self.line(format!("  encrypted with the credential {name} of systemd"))
            }
        }
    }

    /// A file of secrets.
    fn key(&mut self, field: &str, path: &Path, absence: Absence) {
        self.file(field, path, absence);
        if fs::metadata(path).is_ok_and(|found| found.is_file() && is_open_to_all(&found)) {
            let path = path.display();
            let warning =
                format!("{field}: {path}: every user of this node may read it; run chmod 600 {path}");
            self.warnings.push(warning);
        }
    }

    fn file(&mut self, field: &str, path: &Path, absence: Absence) {
        let found = Found::at(path);
        let name = field.rsplit('.').next().unwrap_or(field);
        self.line(format!("  {name:<12} {} ({found})", path.display()));
        let said = format!("{field}: {}: {found}", path.display());
        match (&found, absence) {
            (Found::File, _) => {}
            (Found::Nothing, Absence::Awaited) => self.warnings.push(format!("{said}; {}", found.hint())),
            (Found::Nothing, Absence::Fatal(harm)) => self.report.problem(
                Fault::Certificate,
                format!("{said}: {harm} until it is there; is it spelt right?"),
            ),
            (Found::NoFile | Found::Unreadable(_), _) => self
                .report
                .problem(Fault::Certificate, format!("{said}; {}", found.hint())),
        }
    }
}

/// What it means that a file is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// It is normal on a new node.
    Awaited,
    /// This harm is done.
    Fatal(&'static str),
}

/// The largest unit that divides the size.
fn size(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes.trailing_zeros() >= *shift)
        .map_or_else(
            || format!("{bytes} bytes"),
            |(unit, shift)| format!("{} {unit}", bytes >> shift),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(size(1536 << 20), "1536 MiB");
        assert_eq!(size(1_000_000_000), "1000000000 bytes");
    }

    #[test]
    fn what_is_at_a_path_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Found::at(dir.path()), Found::NoFile);
        assert_eq!(Found::at(&dir.path().join("none")), Found::Nothing);
        let file = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        assert_eq!(Found::at(file.path()), Found::File);
        assert_eq!(
            Found::at(&file.path().join("below")),
            Found::Unreadable(ErrorKind::NotADirectory)
        );
    }
}
