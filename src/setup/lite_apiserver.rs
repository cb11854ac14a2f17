//! The configuration of a lite-apiserver, said in ours.
//!
//! From its command line (SuperEdge, `pkg/lite-apiserver/options`) and the file of its `--tls-config-file`: a JSON array of
//! `{"cert": PATH, "key": PATH}`. It takes the common names from the certificates when it runs; ours names them, so they are
//! read here. What has no counterpart becomes a comment that says so. Pure but for that look, which is handed in.

use std::fmt::Write as _;
use std::path::Path;

use super::configuration::{path, quoted};

mod flags;

pub use flags::{FlagError, Flags};

/// One pair of its `--tls-config-file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// Why the file is not a `tls.json`.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// Not JSON, or not an array of objects.
    #[error("is not a list of pairs like [{{\"cert\": \"/a.crt\", \"key\": \"/a.key\"}}]: {0}")]
    Malformed(serde_json::Error),
    /// An entry without one of the two.
    #[error("has no `{field}` in its entry {number}")]
    Incomplete {
        /// `cert` or `key`.
        field: &'static str,
        /// Counted from 1.
        number: usize,
    },
}

/// The configuration that does the same, as a file of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The file.
    pub yaml: String,
    /// What the reader must still do, one line each.
    pub todo: Vec<String>,
}

/// Reads a `tls.json`.
///
/// # Errors
/// The end of a sentence that starts with its path.
pub fn pairs(json: &str) -> Result<Vec<Pair>, TlsFileError> {
    type Entry = serde_json::Map<String, serde_json::Value>;
    let entries: Vec<Entry> = serde_json::from_str(json).map_err(TlsFileError::Malformed)?;
    let field = |entry: &Entry, field: &'static str, number| {
        // Go takes the names of fields in any case.
        let found = entry.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
        let value = found
            .and_then(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty());
        value
            .map(str::to_owned)
            .ok_or(TlsFileError::Incomplete { field, number })
    };
    let pair = |(i, entry): (usize, &Entry)| {
        Ok(Pair {
            cert: field(entry, "cert", i + 1)?,
            key: field(entry, "key", i + 1)?,
        })
    };
    entries.iter().enumerate().map(pair).collect()
}

/// Says it in ours. `common_name` looks into a certificate; an error is why it could not.
pub fn translate(
    pairs: &[Pair],
    flags: &Flags,
    common_name: &dyn Fn(&Pair) -> Result<String, String>,
) -> Translation {
    let mut writer = Writer {
        yaml: String::new(),
        todo: Vec::new(),
    };
    // Writing to a String does not fail.
    let _ = writer.file(pairs, flags, common_name);
    Translation {
        yaml: writer.yaml,
        todo: writer.todo,
    }
}

struct Writer {
    yaml: String,
    todo: Vec<String>,
}

/// The names of a lite-apiserver that edgeadm installs.
const EDGEADM: [(&str, &str); 3] = [
    ("ca-file", "/etc/kubernetes/pki/ca.crt"),
    ("tls-cert-file", "/etc/kubernetes/edge/lite-apiserver.crt"),
    ("tls-private-key-file", "/etc/kubernetes/edge/lite-apiserver.key"),
];

impl Writer {
    fn file(
        &mut self,
        pairs: &[Pair],
        flags: &Flags,
        common_name: &dyn Fn(&Pair) -> Result<String, String>,
    ) -> std::fmt::Result {
        writeln!(
            self.yaml,
            "# The configuration of a lite-apiserver, said in edgehold's words (docs/migration.md)."
        )?;
        writeln!(
            self.yaml,
            "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\n"
        )?;
        self.listen(flags)?;
        self.upstream(flags)?;
        self.clients(pairs, common_name)?;
        self.cache(flags)?;
        self.rest(flags)
    }

    /// The value of a flag that it cannot do without.
    fn required(&mut self, flags: &Flags, name: &str) -> String {
        if let Some(value) = flags.value(name) {
            return path(Path::new(value));
        }
        let usual = EDGEADM
            .iter()
            .find(|(flag, _)| *flag == name)
            .map_or("", |(_, usual)| usual);
        let todo = format!("--{name} was not given: {usual} is edgeadm's");
        if !self.todo.contains(&todo) {
            self.todo.push(todo);
        }
        format!("{usual}  # --{name} was not given: this is edgeadm's")
    }

    fn listen(&mut self, flags: &Flags) -> std::fmt::Result {
        let port = flags.value("port").unwrap_or("51003");
        let mut hosts = flags.values("address");
        if hosts.is_empty() {
            hosts.push("127.0.0.1");
        }
        let addresses: Vec<String> = hosts.iter().map(|host| quoted(&with_port(host, port))).collect();
        let (cert, key) = (
            self.required(flags, "tls-cert-file"),
            self.required(flags, "tls-private-key-file"),
        );
        let ca = self.required(flags, "ca-file");
        writeln!(self.yaml, "listen:  # --address, --port")?;
        writeln!(self.yaml, "  addresses: [{}]", addresses.join(", "))?;
        writeln!(self.yaml, "  tls:")?;
        writeln!(self.yaml, "    certFile: {cert}")?;
        writeln!(self.yaml, "    keyFile: {key}")?;
        writeln!(self.yaml, "    clientCAFile: {ca}\n")
    }

    fn upstream(&mut self, flags: &Flags) -> std::fmt::Result {
        let port = flags.value("kube-apiserver-port").unwrap_or("443");
        writeln!(
            self.yaml,
            "upstream:  # --kube-apiserver-url, --kube-apiserver-port"
        )?;
        match flags.value("kube-apiserver-url") {
            Some(host) => {
                let server = format!("https://{}", with_port(host, port));
                writeln!(self.yaml, "  servers: [{}]", quoted(&server))?;
            }
            None => {
                self.todo.push(
                    "--kube-apiserver-url was not given: write the server in `upstream.servers`".to_owned(),
                );
                writeln!(
                    self.yaml,
                    "  # --kube-apiserver-url was not given: write the real one."
                )?;
                writeln!(
                    self.yaml,
                    "  servers: [\"https://kube-apiserver.invalid:{port}\"]"
                )?;
            }
        }
        let ca = match flags.value("apiserver-ca-file") {
            Some(ca) => path(Path::new(ca)),
            None => self.required(flags, "ca-file"),
        };
        // Said once, for the listener.
        let ca = ca.split("  #").next().unwrap_or_default().to_owned();
        writeln!(self.yaml, "  caFile: {ca}")?;
        // Go's dialer; 0 is ten seconds there.
        let seconds = flags.value("timeout").unwrap_or("3").parse().unwrap_or(3);
        let seconds = if seconds == 0 { 10 } else { seconds };
        writeln!(self.yaml, "  connectTimeout: {seconds}s  # --timeout")?;
        if flags.is_on("insecure", "false") {
            self.todo.push(
                "--insecure has no counterpart: upstream.caFile must hold the server's authority".to_owned(),
            );
            writeln!(
                self.yaml,
                "  # --insecure has no counterpart: the server is always verified with caFile."
            )?;
        }
        let mut interfaces: Vec<String> = Vec::new();
        let given = flags.values("network-interface").into_iter();
        for name in given.flat_map(|value| value.split(',')).map(str::trim) {
            let name = quoted(name);
            if name != "\"\"" && !interfaces.contains(&name) {
                interfaces.push(name);
            }
        }
        if !interfaces.is_empty() {
            let interfaces = interfaces.join(", ");
            writeln!(self.yaml, "  interfaces: [{interfaces}]  # --network-interface")?;
        }
        writeln!(self.yaml)
    }

    fn clients(
        &mut self,
        pairs: &[Pair],
        common_name: &dyn Fn(&Pair) -> Result<String, String>,
    ) -> std::fmt::Result {
        let names: Vec<Result<String, String>> = pairs.iter().map(common_name).collect();
        writeln!(
            self.yaml,
            "# --tls-config-file; the names are those of the certificates."
        )?;
        let any = names.iter().any(Result::is_ok);
        writeln!(self.yaml, "{}", if any { "clients:" } else { "clients: []" })?;
        for (i, (pair, name)) in pairs.iter().zip(&names).enumerate() {
            let later = names
                .iter()
                .skip(i + 1)
                .any(|later| later.is_ok() && later == name);
            let (before, name, why) = match name {
                // The last one of a name counts there.
                Ok(name) if later => ("  # ", name.as_str(), "another pair with this name follows"),
                Ok(name) => ("  ", name.as_str(), ""),
                Err(why) => ("  # ", "?", why.as_str()),
            };
            if before != "  " {
                writeln!(self.yaml, "  # Left out: {why}")?;
            }
            if name == "?" {
                self.todo.push(format!(
                    "{}: its common name is not known ({why}): complete its entry",
                    pair.cert
                ));
            }
            writeln!(self.yaml, "{before}- commonName: {}", quoted(name))?;
            writeln!(self.yaml, "{before}  certFile: {}", path(Path::new(&pair.cert)))?;
            writeln!(self.yaml, "{before}  keyFile: {}", path(Path::new(&pair.key)))?;
        }
        writeln!(self.yaml)
    }

    fn cache(&mut self, flags: &Flags) -> std::fmt::Result {
        let kind = flags.value("cache-type").unwrap_or("file");
        let store = if kind == "memory" { "memory" } else { "file" };
        writeln!(self.yaml, "cache:")?;
        writeln!(self.yaml, "  store: {store}  # --cache-type={kind}")?;
        writeln!(
            self.yaml,
            "  # A new folder: what lite-apiserver cached is not read. It says not who had read it."
        )?;
        writeln!(self.yaml, "  path: /var/lib/edgehold\n")
    }

    fn rest(&mut self, flags: &Flags) -> std::fmt::Result {
        let level = flags.value("v").and_then(|level| level.parse::<u32>().ok());
        let level = if level.is_some_and(|level| level >= 4) {
            "debug"
        } else {
            "info"
        };
        writeln!(self.yaml, "log: {{format: text, level: {level}}}  # --v")?;
        let without = [
            (
                "modify-request-accept",
                "answers are kept in every encoding, requests are left as they are",
            ),
            (
                "url-mux-cache",
                "each client has what it was itself allowed to read",
            ),
            ("profiling", "there is no profiling port"),
        ];
        for (flag, why) in without.iter().filter(|(flag, _)| flags.value(flag).is_some()) {
            writeln!(self.yaml, "# --{flag} has no counterpart: {why}.")?;
        }
        for unknown in flags.unknown() {
            writeln!(self.yaml, "# --{unknown} is not a flag of lite-apiserver.")?;
        }
        Ok(())
    }
}

fn with_port(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
