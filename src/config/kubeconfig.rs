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

/// The current context of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `server` of the cluster, as written.
    pub server: String,
    /// The authorities that the server is verified with.
    pub authority: Authority,
    /// What the user shows.
    pub credentials: Credentials,
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
    /// The edit would have changed more, or less, than it should.
    #[error("is written in a way that cannot be edited safely: change its server by hand")]
    NotEditable,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<Named<ContextBody>>,
    #[serde(default)]
    clusters: Vec<Named<ClusterBody>>,
    #[serde(default)]
    users: Vec<Named<UserBody>>,
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
    tls_server_name: Option<String>,
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
}

impl Kubeconfig {
    /// Reads the current context of `text`, the file at `path`: relative paths in it start at its directory.
    ///
    /// # Errors
    /// What of it cannot be used, as the end of a sentence that starts with its path.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let absolute = |path: String| dir.join(path);
        let file = read(text)?;
        let (cluster, user) = file.current()?;
        let authority = match (cluster.certificate_authority_data, cluster.certificate_authority) {
            (Some(data), _) if !data.value.is_empty() => {
                Authority::Data(decode(&data.value, "certificate-authority-data")?)
            }
            (_, Some(path)) if !path.value.is_empty() => Authority::File(absolute(path.value)),
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
        Ok(Self {
            server: cluster.server.value,
            authority,
            credentials,
            tls_server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
            proxy_url: cluster
                .proxy_url
                .map(|url| url.value)
                .filter(|url| !url.is_empty()),
            skips_verification: cluster.insecure_skip_tls_verify,
        })
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
}

/// `text` with the cluster of its current context at `target`.
///
/// # Errors
/// As [`Kubeconfig::parse`]; [`KubeconfigError::NotEditable`] if the file names its authorities in another way than
/// `target` does, or is written so that the edit does not read back as meant.
pub fn edit(text: &str, target: &Target<'_>) -> Result<String, KubeconfigError> {
    let (cluster, _) = read(text)?.current()?;
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
    if let Some(proxy) = cluster.proxy_url.filter(|old| old.value != target.proxy) {
        places.push(("proxy-url", place(text, &proxy)?, target.proxy));
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

impl File {
    fn current(self) -> Result<(ClusterBody, UserBody), KubeconfigError> {
        if self.current_context.is_empty() {
            return Err(KubeconfigError::NoCurrentContext);
        }
        let context = find(self.contexts, "context", &self.current_context)?;
        let cluster = find(self.clusters, "cluster", &context.cluster)?;
        let user = if context.user.is_empty() {
            UserBody::default()
        } else {
            find(self.users, "user", &context.user)?
        };
        Ok((cluster, user))
    }
}

fn find<T>(all: Vec<Named<T>>, kind: &'static str, name: &str) -> Result<T, KubeconfigError> {
    let missing = || KubeconfigError::Missing {
        kind,
        name: name.to_owned(),
    };
    let named = all.into_iter().find(|one| one.name == name).ok_or_else(missing)?;
    named.body.ok_or_else(missing)
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
