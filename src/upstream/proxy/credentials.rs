//! What a proxy wants to be told of whoever uses it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::tunnel::TunnelError;

/// A file with a user name and a password is never larger.
const LARGEST_FILE: u64 = 4096;

/// Where user name and password for the proxy come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `user:password` as it stands in the configuration.
    Given(Secret),
    /// A file with `user:password`, read for each connection.
    File(PathBuf),
}

/// A text that nobody gets to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Credentials {
    /// User name and password. Reads the file, if it is one.
    ///
    /// # Errors
    /// The file cannot be read or does not hold `user:password`; the path is in the message, the content is not.
    pub(in super::super) fn pair(&self) -> io::Result<Secret> {
        match self {
            Self::Given(pair) => Ok(pair.clone()),
            Self::File(path) => {
                let failed =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                Ok(Secret(read_pair(path).map_err(failed)?.into()))
            }
        }
    }
}

fn read_pair(path: &PathBuf) -> io::Result<String> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text)?;
    let pair = text.trim_end_matches(['\r', '\n']);
    if !is_pair(pair) {
        return Err(io::Error::other("does not hold `user:password` on one line"));
    }
    Ok(pair.to_owned())
}

/// Whether it can be sent (RFC 7617 section 2): no control characters, and a colon after the user name.
fn is_pair(text: &str) -> bool {
    text.contains(':') && !text.chars().any(char::is_control)
}

impl Secret {
    /// `user:password`, with nothing escaped; `None` if it is not one.
    pub fn pair(text: &str) -> Option<Self> {
        is_pair(text).then(|| Self(text.into()))
    }

    /// The value of `Proxy-Authorization`.
    pub(super) fn basic(&self) -> Result<HeaderValue, TunnelError> {
        let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(self.0.as_ref())));
        let mut value = value.map_err(|_| TunnelError::Target)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// What stands before the first colon, and what after it.
    pub(super) fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Credentials) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let credentials = Credentials::File(file.path().to_owned());
        (file, credentials)
    }

    #[test]
    fn a_pair_is_sent_as_it_stands_in_the_file_without_its_last_line_end() {
        let given = Secret::pair("me:hunter2:ü").map(Credentials::Given).unwrap();
        let expected = format!("Basic {}", STANDARD.encode("me:hunter2:ü"));
        let (_kept, read) = file("me:hunter2:ü\r\n".as_bytes());
        for credentials in [given, read] {
            let value = credentials.pair().unwrap().basic().unwrap();
            assert_eq!(value.to_str().unwrap(), expected);
            assert!(value.is_sensitive());
            let shown = format!("{credentials:?} {value:?}");
            assert!(
                !shown.contains("hunter2") && !shown.contains(&expected),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_is_no_pair_is_an_error_that_names_the_file_and_not_its_content() {
        for content in [
            &b""[..],
            b"hunter2",
            b"me:hunter2\nmore",
            b"me:hun\0ter2",
            b"me:hunter2 \xff",
            &[b'h'; 8192],
        ] {
            let (kept, credentials) = file(content);
            let error = credentials.pair().unwrap_err().to_string();
            let name = kept.path().display().to_string();
            assert!(error.starts_with(&name) && !error.contains("hunter2"), "{error}");
        }
        let error = Credentials::File("/nowhere".into()).pair().unwrap_err();
        assert!(error.to_string().starts_with("/nowhere: "), "{error}");
        assert!(Credentials::File("/tmp".into()).pair().is_err());
    }
}
