//! Kubeconfig files: what one says about its current context, and the smallest edit that points it elsewhere.
//!
//! Owns the part of the format that a node's own clients use (`clientcmd/api/v1` of client-go). An edit replaces the text
//! of two scalars, or three, and leaves every other byte alone: comments, order, other clusters. It is read back before it is given
//! out: whatever the parser and this module understand differently is an error and never a broken file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::upstream::{Endpoint, UpstreamProxy};

use super::address;

/// The current context of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `server` of the cluster, as written.
    pub server: String,
    /// The authorities that the server is verified with.
    pub authority: Authority,
    /// What the user shows in a handshake.
    pub credentials: Credentials,
    /// What the user shows in a request.
    pub bearer: Bearer,
    /// What the user's credentials are asked of: the command of `exec`, or the name of `auth-provider`.
    pub plugin: Option<String>,
    /// `tls-server-name` of the cluster.
    pub tls_server_name: Option<String>,
    /// `proxy-url` of the cluster.
    pub proxy_url: Option<String>,
    /// `insecure-skip-tls-verify` of the cluster.
    pub skips_verification: bool,
}

/// The authorities that the server is verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// None is named: the system's.
    System,
    /// `certificate-authority`, absolute.
    File(PathBuf),
    /// `certificate-authority-data`, decoded.
    Data(Vec<u8>),
}

/// What the user shows. Its `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `client-certificate` and `client-key`, absolute.
    Files {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// `client-certificate-data` and `client-key-data`, decoded.
    Data {
        /// The certificate.
        cert: Vec<u8>,
        /// Its key.
        key: Vec<u8>,
    },
    /// A token, a password, a plugin, or nothing.
    NoCertificate,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files { cert, key } => f.debug_tuple("Files").field(cert).field(key).finish(),
            Self::Data { .. } => f.write_str("Data"),
            Self::NoCertificate => f.write_str("NoCertificate"),
        }
    }
}

/// A bearer token of the user. Its `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub enum Bearer {
    /// None, or one that a plugin would have to be asked for.
    None,
    /// `token`.
    Text(String),
    /// `tokenFile`, absolute.
    File(PathBuf),
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Why a kubeconfig cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// Not YAML, or not of this form.
    #[error("is not a kubeconfig: {0}")]
    Malformed(String),
    /// Without a current context there is no cluster to edit.
    #[error("has no current-context")]
    NoCurrentContext,
    /// The context, or what it names, is not in the file.
    #[error("has no {kind} named {name:?}")]
    Missing {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that was looked for.
        name: String,
    },
    /// Text that is not base64.
    #[error("has a {0} that is not base64")]
    NotBase64(&'static str),
    /// A URL that leads nowhere.
    #[error(
        "has a {0} that is not https://HOST[:PORT][/PATH], a name, or http:// or socks5://[USER:PASSWORD@]HOST:PORT of a proxy"
    )]
    NotAnAddress(&'static str),
    /// The edit would have changed more, or less, than it should.
    #[error("is written in a way that cannot be edited safely: change its server by hand")]
    NotEditable,
}

/// kubectl writes `null` where it has taken the last one away.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: Option<String>,
    contexts: Option<Vec<Named<ContextBody>>>,
    clusters: Option<Vec<Named<ClusterBody>>>,
    users: Option<Vec<Named<UserBody>>>,
}

/// One of several files that are read as one.
pub struct Source {
    /// Where relative paths in it start.
    dir: PathBuf,
    file: File,
}

impl Source {
    /// `text` is the file at `path`.
    ///
    /// # Errors
    /// [`KubeconfigError::Malformed`].
    pub fn read(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        Ok(Self {
            dir: path.parent().unwrap_or(Path::new("/")).to_owned(),
            file: read(text)?,
        })
    }
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    body: Option<T>,
}

#[derive(Deserialize)]
struct ContextBody {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterBody {
    server: Spanned<String>,
    certificate_authority: Option<Spanned<String>>,
    certificate_authority_data: Option<Spanned<String>>,
    tls_server_name: Option<Spanned<String>>,
    proxy_url: Option<Spanned<String>>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserBody {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    exec: Option<ExecBody>,
    auth_provider: Option<ProviderBody>,
}

#[derive(Deserialize)]
struct ExecBody {
    #[serde(default)]
    command: String,
}

#[derive(Deserialize)]
struct ProviderBody {
    #[serde(default)]
    name: String,
}

impl Kubeconfig {
    /// Reads the current context of `text`, the file at `path`: relative paths in it start at its directory.
    ///
    /// # Errors
    /// What of it cannot be used, as the end of a sentence that starts with its path.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        Self::merged(vec![Source::read(text, path)?])
    }

    /// Reads the current context of several files, by kubectl's rules: the first that says something, or has an entry of a
    /// name, counts, and nothing is added to an entry from another file.
    ///
    /// # Errors
    /// What of it cannot be used, as the end of a sentence.
    pub fn merged(mut sources: Vec<Source>) -> Result<Self, KubeconfigError> {
        let Current {
            cluster: (cluster_dir, cluster),
            user: (user_dir, user),
        } = current(&mut sources)?;
        let absolute = |path: String| user_dir.join(path);
        let authority = match (cluster.certificate_authority_data, cluster.certificate_authority) {
            (Some(data), _) if !data.value.is_empty() => {
                Authority::Data(decode(&data.value, "certificate-authority-data")?)
            }
            (_, Some(path)) if !path.value.is_empty() => Authority::File(cluster_dir.join(path.value)),
            _ => Authority::System,
        };
        let cert_data = user.client_certificate_data.filter(|data| !data.is_empty());
        let key_data = user.client_key_data.filter(|data| !data.is_empty());
        let credentials = match (cert_data, key_data, user.client_certificate, user.client_key) {
            (Some(cert), Some(key), ..) => Credentials::Data {
                cert: decode(&cert, "client-certificate-data")?,
                key: decode(&key, "client-key-data")?,
            },
            (_, _, Some(cert), Some(key)) => Credentials::Files {
                cert: absolute(cert),
                key: absolute(key),
            },
            _ => Credentials::NoCertificate,
        };
        let token_file = user.token_file.filter(|path| !path.is_empty());
        let bearer = match (token_file, user.token.filter(|token| !token.is_empty())) {
            (Some(path), _) => Bearer::File(absolute(path)),
            (None, Some(token)) => Bearer::Text(token),
            (None, None) => Bearer::None,
        };
        let plugin = match (user.exec, user.auth_provider) {
            (Some(exec), _) => Some(exec.command),
            (None, Some(provider)) => Some(provider.name),
            (None, None) => None,
        };
        Ok(Self {
            server: cluster.server.value,
            authority,
            credentials,
            bearer,
            plugin,
            tls_server_name: cluster
                .tls_server_name
                .map(|name| name.value)
                .filter(|name| !name.is_empty()),
            proxy_url: cluster
                .proxy_url
                .map(|url| url.value)
                .filter(|url| !url.is_empty()),
            skips_verification: cluster.insecure_skip_tls_verify,
        })
    }
}

impl Kubeconfig {
    /// The server.
    ///
    /// # Errors
    /// [`KubeconfigError::NotAnAddress`].
    pub fn endpoint(&self) -> Result<Endpoint, KubeconfigError> {
        let endpoint = address::server(&self.server).map_err(|_| KubeconfigError::NotAnAddress("server"))?;
        let Some(name) = &self.tls_server_name else {
            return Ok(endpoint);
        };
        let name = name
            .parse()
            .map_err(|_| KubeconfigError::NotAnAddress("tls-server-name"))?;
        Ok(endpoint.named(name))
    }

    /// The proxy on the way there.
    ///
    /// # Errors
    /// [`KubeconfigError::NotAnAddress`].
    pub fn proxy(&self) -> Result<Option<UpstreamProxy>, KubeconfigError> {
        let Some(url) = &self.proxy_url else {
            return Ok(None);
        };
        let proxy = address::proxy(url).map_err(|_| KubeconfigError::NotAnAddress("proxy-url"))?;
        Ok(Some(proxy))
    }
}

/// Where the cluster of a kubeconfig is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'t> {
    /// `server`.
    pub server: &'t str,
    /// The authorities that it is verified with, named in the way in which the file names its own.
    pub authority: &'t Authority,
    /// `proxy-url`, empty for none. For files that have the field; to others none is added.
    pub proxy: &'t str,
    /// `tls-server-name`, in the same way.
    pub server_name: &'t str,
}

/// `text` with the cluster of its current context at `target`.
///
/// # Errors
/// As [`Kubeconfig::parse`]; [`KubeconfigError::NotEditable`] if the file names its authorities in another way than
/// `target` does, or is written so that the edit does not read back as meant.
pub fn edit(text: &str, target: &Target<'_>) -> Result<String, KubeconfigError> {
    let source = Source::read(text, Path::new("/"))?;
    let (_, cluster) = current(&mut [source])?.cluster;
    let (field, old, new) = match (
        cluster.certificate_authority_data,
        cluster.certificate_authority,
        target.authority,
    ) {
        (Some(old), _, Authority::Data(data)) => ("certificate-authority-data", old, STANDARD.encode(data)),
        (None, Some(old), Authority::File(path)) => {
            let path = path.to_str().ok_or(KubeconfigError::NotEditable)?;
            ("certificate-authority", old, path.to_owned())
        }
        _ => return Err(KubeconfigError::NotEditable),
    };
    let mut places = vec![
        ("server", place(text, &cluster.server)?, target.server),
        (field, place(text, &old)?, &*new),
    ];
    for (field, old, new) in [
        ("proxy-url", cluster.proxy_url, target.proxy),
        ("tls-server-name", cluster.tls_server_name, target.server_name),
    ] {
        if let Some(old) = old.filter(|old| old.value != new) {
            places.push((field, place(text, &old)?, new));
        }
    }
    // From the back, so that one edit does not move the next.
    places.sort_by_key(|(_, at, _)| std::cmp::Reverse(at.start));
    let mut edited = text.to_owned();
    for (_, at, value) in &places {
        let written = scalar(text.get(at.clone()).unwrap_or_default(), value);
        edited.replace_range(at.clone(), &written);
    }
    let fields: Vec<_> = places.iter().map(|(field, _, value)| (*field, *value)).collect();
    if same_but(text, &edited, &fields)? {
        Ok(edited)
    } else {
        Err(KubeconfigError::NotEditable)
    }
}

/// What the current context names, and where relative paths in it start.
struct Current {
    cluster: (PathBuf, ClusterBody),
    user: (PathBuf, UserBody),
}

fn current(sources: &mut [Source]) -> Result<Current, KubeconfigError> {
    let mut named = sources
        .iter()
        .filter_map(|source| source.file.current_context.clone());
    let name = named
        .find(|name| !name.is_empty())
        .ok_or(KubeconfigError::NoCurrentContext)?;
    let (_, context) = first(sources, |file| &mut file.contexts, "context", &name)?;
    let cluster = first(sources, |file| &mut file.clusters, "cluster", &context.cluster)?;
    let user = if context.user.is_empty() {
        <(PathBuf, UserBody)>::default()
    } else {
        first(sources, |file| &mut file.users, "user", &context.user)?
    };
    Ok(Current { cluster, user })
}

/// Takes the entry of this name out of the first file that has one.
fn first<T>(
    sources: &mut [Source],
    list: impl Fn(&mut File) -> &mut Option<Vec<Named<T>>>,
    kind: &'static str,
    name: &str,
) -> Result<(PathBuf, T), KubeconfigError> {
    let found = sources.iter_mut().find_map(|source| {
        let all = list(&mut source.file).as_mut()?;
        let at = all.iter().position(|one| one.name == name)?;
        Some((source.dir.clone(), all.remove(at).body))
    });
    match found {
        Some((dir, Some(body))) => Ok((dir, body)),
        _ => Err(KubeconfigError::Missing {
            kind,
            name: name.to_owned(),
        }),
    }
}

fn read(text: &str) -> Result<File, KubeconfigError> {
    serde_saphyr::from_str(text).map_err(|error| malformed(&error))
}

/// The first line alone: the rest is an excerpt, and may hold a token.
fn malformed(error: &serde_saphyr::Error) -> KubeconfigError {
    let at = error
        .location()
        .map(|at| format!("line {}, column {}", at.line(), at.column()));
    KubeconfigError::Malformed(at.map_or_else(|| "not YAML".to_owned(), |at| format!("see {at}")))
}

fn decode(text: &str, field: &'static str) -> Result<Vec<u8>, KubeconfigError> {
    let text: String = text.split_ascii_whitespace().collect();
    STANDARD
        .decode(text)
        .map_err(|_| KubeconfigError::NotBase64(field))
}

/// The bytes of a scalar in the text, with its quotes.
fn place(text: &str, value: &Spanned<String>) -> Result<Range<usize>, KubeconfigError> {
    // An alias is written in one place and means another.
    if value.referenced != value.defined {
        return Err(KubeconfigError::NotEditable);
    }
    let span = value.referenced.span();
    let bytes = span.byte_offset().zip(span.byte_len());
    let range = bytes.and_then(|(start, len)| {
        let start = usize::try_from(start).ok()?;
        Some(start..start.checked_add(usize::try_from(len).ok()?)?)
    });
    range
        .filter(|range| text.get(range.clone()).is_some())
        .ok_or(KubeconfigError::NotEditable)
}

/// `value` as a scalar that is quoted as `old` was, or because it must be.
fn scalar(old: &str, value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || ":/._+=-".contains(c);
    if !old.starts_with(['"', '\''])
        && value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && value.chars().all(safe)
    {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether the two texts mean the same but for these fields of the current cluster, which have these values in `edited`.
fn same_but(text: &str, edited: &str, fields: &[(&str, &str)]) -> Result<bool, KubeconfigError> {
    let value =
        |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).map_err(|error| malformed(&error));
    let mut expected = value(text)?;
    let current = expected.get("current-context").cloned();
    let by_name = |all: Option<&serde_json::Value>, name: Option<&serde_json::Value>| {
        all?.as_array()?.iter().position(|one| one.get("name") == name)
    };
    let Some(context) = by_name(expected.get("contexts"), current.as_ref()) else {
        return Ok(false);
    };
    let cluster = expected
        .pointer(&format!("/contexts/{context}/context/cluster"))
        .cloned();
    let Some(at) = by_name(expected.get("clusters"), cluster.as_ref()) else {
        return Ok(false);
    };
    for (field, value) in fields {
        match expected.pointer_mut(&format!("/clusters/{at}/cluster/{field}")) {
            Some(place) => *place = (*value).into(),
            None => return Ok(false),
        }
    }
    Ok(value(edited)? == expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KUBELET: &str = "\
# written by kubeadm
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority-data: Y2E=   # the cluster's
    server: https://203.0.113.10:6443  # ü, the cloud
  name: kubernetes
- cluster: {server: \"https://other:6443\", certificate-authority-data: Y2E=}
  name: other
contexts:
- context:
    cluster: kubernetes
    user: node
  name: node@kubernetes
current-context: node@kubernetes
users:
- name: node
  user:
    client-certificate: pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
";

    fn edit(text: &str, server: &str, authority: &Authority) -> Result<String, KubeconfigError> {
        edit_through(text, server, authority, "")
    }

    fn edit_through(
        text: &str,
        server: &str,
        authority: &Authority,
        proxy: &str,
    ) -> Result<String, KubeconfigError> {
        super::edit(
            text,
            &Target {
                server,
                authority,
                proxy,
                server_name: "",
            },
        )
    }

    fn parsed(text: &str) -> Result<Kubeconfig, KubeconfigError> {
        Kubeconfig::parse(text, Path::new("/etc/kubernetes/kubelet.conf"))
    }

    #[test]
    fn the_current_context_is_read() {
        let found = parsed(KUBELET).unwrap();
        assert_eq!(found.server, "https://203.0.113.10:6443");
        assert_eq!(found.authority, Authority::Data(b"ca".to_vec()));
        assert_eq!(
            found.credentials,
            Credentials::Files {
                cert: "/etc/kubernetes/pki/kubelet-client-current.pem".into(),
                key: "/var/lib/kubelet/pki/kubelet-client-current.pem".into(),
            }
        );
        assert!(!found.skips_verification && found.proxy_url.is_none() && found.tls_server_name.is_none());
    }

    #[test]
    fn of_several_files_the_first_that_says_something_counts() {
        let user = |token: &str| format!("users: [{{name: u, user: {{token: {token}}}}}]\n");
        let first = format!(
            "current-context: \"\"\ncontexts: null\nclusters: null\n{}",
            user("one")
        );
        let second = "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
                      clusters: [{name: k, cluster: {server: \"https://a:1\", certificate-authority: ca.crt}}]\n";
        // What the second has of the same name is left aside whole.
        let third = "current-context: d\nclusters: [{name: k, cluster: {server: \"https://b:2\", tls-server-name: x}}]\n\
                     users: [{name: u, user: {client-certificate: /c, client-key: /k}}]\n";
        let files = [
            ("/one/config", first.as_str()),
            ("/two/config", second),
            ("/three/config", third),
        ];
        let sources = files.map(|(path, text)| Source::read(text, Path::new(path)).unwrap());
        let merged = Kubeconfig::merged(sources.into()).unwrap();
        assert_eq!(merged.server, "https://a:1");
        assert_eq!(merged.authority, Authority::File("/two/ca.crt".into()));
        assert_eq!(merged.tls_server_name, None);
        assert_eq!(merged.bearer, Bearer::Text("one".to_owned()));
        assert_eq!(merged.credentials, Credentials::NoCertificate);
    }

    #[test]
    fn an_edit_changes_two_values_and_no_other_byte() {
        let local = "https://127.0.0.1:51003";
        let edited = edit(KUBELET, local, &Authority::Data(b"ca and ours".to_vec())).unwrap();
        let expected =
            KUBELET
                .replacen("https://203.0.113.10:6443", local, 1)
                .replacen("Y2E=", "Y2EgYW5kIG91cnM=", 1);
        assert_eq!(edited, expected);
        let back = edit(
            &edited,
            "https://203.0.113.10:6443",
            &Authority::Data(b"ca".to_vec()),
        );
        assert_eq!(back.unwrap(), KUBELET);
    }

    #[test]
    fn flow_style_quotes_and_json_are_edited_in_their_own_style() {
        for (text, expected) in [
            (
                r#"{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k"}}],"clusters":[{"name":"k","cluster":{"server":"https://a","certificate-authority":"/ca"}}]}"#,
                r#""server":"https://[::1]:1","certificate-authority":"/new""#,
            ),
            (
                "{current-context: c, contexts: [{name: c, context: {cluster: k}}], clusters: [{name: k, cluster: {server: https://a, certificate-authority: '/ca'}}]}",
                "{server: \"https://[::1]:1\", certificate-authority: \"/new\"}",
            ),
        ] {
            let edited = edit(text, "https://[::1]:1", &Authority::File("/new".into())).unwrap();
            assert!(edited.contains(expected), "{edited}");
        }
    }

    #[test]
    fn authorities_over_several_lines_are_replaced_whole() {
        let folded = KUBELET.replacen("Y2E=   # the cluster's", ">-\n      Y2\n      E=", 1);
        assert_eq!(
            parsed(&folded).unwrap().authority,
            Authority::Data(b"ca".to_vec())
        );
        match edit(&folded, "https://a:1", &Authority::Data(b"new".to_vec())) {
            Ok(edited) => assert_eq!(
                parsed(&edited).unwrap().authority,
                Authority::Data(b"new".to_vec())
            ),
            Err(error) => assert_eq!(error, KubeconfigError::NotEditable),
        }
    }

    #[test]
    fn a_proxy_is_left_out_and_put_back_where_there_is_one() {
        let url = "http://user:pass@proxy.example:3128";
        let through = KUBELET.replacen(
            "  name: kubernetes",
            &format!("    proxy-url: {url}\n  name: kubernetes"),
            1,
        );
        assert_eq!(parsed(&through).unwrap().proxy_url.as_deref(), Some(url));
        let ca = Authority::Data(b"ca".to_vec());
        let edited = edit(&through, "https://127.0.0.1:51003", &ca).unwrap();
        assert!(edited.contains("    proxy-url: \"\"\n"), "{edited}");
        assert_eq!(parsed(&edited).unwrap().proxy_url, None);
        let back = edit_through(&edited, "https://203.0.113.10:6443", &ca, url).unwrap();
        assert_eq!(parsed(&back).unwrap(), parsed(&through).unwrap());
        let none = edit_through(KUBELET, "https://203.0.113.10:6443", &ca, url).unwrap();
        assert_eq!(none, KUBELET, "none is added");
    }

    #[test]
    fn a_name_for_the_certificate_is_emptied_and_comes_back() {
        let named = KUBELET.replacen("    server:", "    tls-server-name: kubernetes\n    server:", 1);
        let ca = Authority::Data(b"ca".to_vec());
        let edited = edit(&named, "https://127.0.0.1:51003", &ca).unwrap();
        assert!(edited.contains("    tls-server-name: \"\"\n"), "{edited}");
        assert_eq!(parsed(&edited).unwrap().tls_server_name, None);
        let back = Target {
            server: "https://203.0.113.10:6443",
            authority: &ca,
            proxy: "",
            server_name: "kubernetes",
        };
        let back = super::edit(&edited, &back).unwrap();
        assert_eq!(parsed(&back).unwrap(), parsed(&named).unwrap());
        let endpoint = parsed(&named).unwrap().endpoint().unwrap();
        assert_eq!(endpoint.server_name, "kubernetes".parse().unwrap());
        assert_eq!(endpoint.host, "203.0.113.10");
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let said = |from: &str, to: &str| parsed(&KUBELET.replace(from, to)).unwrap_err().to_string();
        assert_eq!(
            said("current-context: node@kubernetes", ""),
            "has no current-context"
        );
        assert_eq!(
            said("cluster: kubernetes", "cluster: x"),
            "has no cluster named \"x\""
        );
        assert_eq!(said("user: node", "user: x"), "has no user named \"x\"");
        assert_eq!(
            said("Y2E=", "???"),
            "has a certificate-authority-data that is not base64"
        );
        assert!(said("apiVersion: v1", "apiVersion: [").starts_with("is not a kubeconfig: see line "));
        let secret = said("kind: Config", "kind: {token: hunter2");
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn an_alias_or_another_kind_of_authority_is_not_edited() {
        let data = Authority::Data(Vec::new());
        let aliased = KUBELET
            .replace("kind: Config", "kind: Config\nx: &s https://203.0.113.10:6443")
            .replace("server: https://203.0.113.10:6443", "server: *s");
        assert_eq!(
            edit(&aliased, "https://a", &data),
            Err(KubeconfigError::NotEditable)
        );
        let file = Authority::File("/ca".into());
        assert_eq!(
            edit(KUBELET, "https://a", &file),
            Err(KubeconfigError::NotEditable)
        );
    }

    proptest! {
        #[test]
        fn any_damage_is_an_error_or_an_edit_that_reads_back(
            cut in 0..KUBELET.len(), length in 0..30usize, with in "[ a-z\\[{:,}&*\"'|>\n-]{0,12}",
        ) {
            let end = (cut + length).min(KUBELET.len());
            prop_assume!(KUBELET.is_char_boundary(cut) && KUBELET.is_char_boundary(end));
            let text = format!("{}{with}{}", &KUBELET[..cut], &KUBELET[end..]);
            if let Ok(edited) = edit(&text, "https://127.0.0.1:51003", &Authority::Data(b"new".to_vec())) {
                let found = parsed(&edited);
                if let Ok(found) = found {
                    prop_assert_eq!(found.server, "https://127.0.0.1:51003");
                    prop_assert_eq!(found.authority, Authority::Data(b"new".to_vec()));
                }
            }
        }
    }
}
