//! What a plan consists of, and how a person reads it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What will be done, in this order; nothing of it has been done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What was found, one line each.
    pub findings: Vec<String>,
    /// What to do.
    pub steps: Vec<Step>,
    /// What is left to the reader.
    pub notes: Vec<String>,
}

/// Something that is in the way of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub wrong: String,
    /// What the reader can do about it.
    pub fix: String,
}

impl Problem {
    pub(super) fn new(wrong: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            wrong: wrong.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.wrong, self.fix)
    }
}

/// One thing to do. Each is whole or not at all, and may be repeated.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a directory, if it is not there.
    Directory {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Write a file, in one piece.
    Write {
        /// Where.
        path: PathBuf,
        /// Its whole content.
        content: Vec<u8>,
        /// Its permission bits.
        mode: u32,
        /// What it replaces.
        before: Option<Vec<u8>>,
    },
    /// Copy a file with its mode and owner.
    Backup {
        /// The file.
        path: PathBuf,
        /// The copy.
        to: PathBuf,
    },
    /// Replace a file's content, in one piece, with its mode and owner kept.
    Edit {
        /// The file.
        path: PathBuf,
        /// Its content now.
        before: String,
        /// Its content then.
        after: String,
    },
    /// Put a backup back in the place of the file.
    Restore {
        /// The file.
        path: PathBuf,
        /// Its backup, gone afterwards.
        from: PathBuf,
    },
    /// Remove a file, if it is there.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Remove a directory, if it is there and nothing is left in it.
    RemoveEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Remove the cache in a directory, and the directory if nothing else is in it.
    Purge {
        /// The directory.
        path: PathBuf,
    },
    /// Remove a network interface, if it is there.
    RemoveInterface {
        /// Its name.
        name: String,
        /// The addresses that edgehold put on it; others keep it.
        addresses: Vec<IpAddr>,
    },
    /// Tell systemd.
    Systemd(SystemdAction),
    /// Wait until edgehold serves at this address with a certificate by one of these authorities.
    AwaitReady {
        /// Where.
        address: SocketAddr,
        /// A name of the certificate: it need not be for every address yet.
        name: IpAddr,
        /// The authorities, in PEM.
        ca: String,
    },
}

/// What to tell systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemdAction {
    /// Read the units again.
    Reload,
    /// Start edgehold at every boot.
    Enable,
    /// Start edgehold, or start it again.
    Restart,
    /// Stop edgehold, now and at every boot.
    Disable,
    /// Start kubelet again, so that it reads its kubeconfig.
    RestartKubelet,
}

impl SystemdAction {
    /// The arguments of `systemctl`.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Reload => &["daemon-reload"],
            Self::Enable => &["enable", "edgehold.service"],
            Self::Restart => &["restart", "edgehold.service"],
            Self::Disable => &["disable", "--now", "edgehold.service"],
            Self::RestartKubelet => &["restart", "kubelet.service"],
        }
    }
}

impl Step {
    /// The file or directory that it changes.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Directory { path, .. }
            | Self::Write { path, .. }
            | Self::Edit { path, .. }
            | Self::Restore { path, .. }
            | Self::Remove { path }
            | Self::RemoveEmpty { path }
            | Self::Purge { path } => Some(path),
            Self::Backup { to, .. } => Some(to),
            Self::RemoveInterface { .. } | Self::Systemd(_) | Self::AwaitReady { .. } => None,
        }
    }

    /// What changes in the file, line by line, for a person; nothing for files that no person reads.
    pub fn changes(&self) -> Vec<String> {
        match self {
            // What is for root alone holds a secret.
            Self::Write { mode, .. } if mode & 0o077 == 0 => Vec::new(),
            Self::Write { content, before, .. } => {
                let texts = (readable(content), before.as_deref().map_or(Some(""), readable));
                let (Some(after), Some(before)) = texts else {
                    return Vec::new();
                };
                difference(before, after)
            }
            Self::Edit { before, after, .. } => difference(before, after),
            _ => Vec::new(),
        }
    }
}

/// Debug and dry run show no content of a key.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => write!(f, "create {}/ (mode {mode:04o})", path.display()),
            Self::Write {
                path, mode, before, ..
            } => {
                let verb = if before.is_some() { "replace" } else { "write" };
                write!(f, "{verb} {} (mode {mode:04o})", path.display())
            }
            Self::Backup { path, to } => write!(f, "copy {} to {}", path.display(), to.display()),
            Self::Edit { path, .. } => write!(f, "edit {}", path.display()),
            Self::Restore { path, from } => {
                write!(
                    f,
                    "put {} back as it was, from {}",
                    path.display(),
                    from.display()
                )
            }
            Self::Remove { path } => write!(f, "remove {}", path.display()),
            Self::RemoveEmpty { path } => write!(f, "remove {}/ if it is empty", path.display()),
            Self::Purge { path } => write!(f, "remove the cache in {}/", path.display()),
            Self::RemoveInterface { name, .. } => write!(f, "remove the interface {name}"),
            Self::Systemd(action) => write!(f, "systemctl {}", action.arguments().join(" ")),
            Self::AwaitReady { address, .. } => write!(f, "wait until edgehold serves at {address}"),
        }
    }
}

/// A text for people: no PEM, no binary.
fn readable(content: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content).ok()?;
    (!text.contains("-----BEGIN")).then_some(text)
}

/// The lines that are in one text alone, in order. Both texts are short, and differ in one place or two.
fn difference(before: &str, after: &str) -> Vec<String> {
    let (mut old, mut new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    while let (Some(a), Some(b)) = (old.last(), new.last())
        && a == b
    {
        old.pop();
        new.pop();
    }
    let mut lines = Vec::new();
    let (mut old, mut new) = (old.as_slice(), new.as_slice());
    loop {
        match (old.split_first(), new.split_first()) {
            (None, None) => return lines,
            (Some((a, rest_a)), Some((b, rest_b))) if a == b => (old, new) = (rest_a, rest_b),
            (Some((a, rest)), _) if !new.contains(a) => {
                lines.push(format!("- {}", shown(a)));
                old = rest;
            }
            (_, Some((b, rest))) => {
                lines.push(format!("+ {}", shown(b)));
                new = rest;
            }
            (Some((a, rest)), None) => {
                lines.push(format!("- {}", shown(a)));
                old = rest;
            }
        }
    }
}

/// A line that fits a terminal: certificates in a kubeconfig are kilobytes, and a token is nobody's business.
fn shown(line: &str) -> String {
    const LONGEST: usize = 120;
    const KEPT: usize = 60;
    let secret = ["token:", "password:", "client-key-data:"]
        .iter()
        .any(|field| line.contains(field))
        || (line.contains("proxy-url:") && line.contains('@'));
    if line.chars().count() <= LONGEST && !secret {
        return line.to_owned();
    }
    if secret {
        let name = line.split(':').next().unwrap_or_default();
        return format!("{name}: ... (not shown)");
    }
    let kept: String = line.chars().take(KEPT).collect();
    format!("{kept}... ({} characters)", line.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_one_line_shows_that_line() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), ["- b", "+ x"]);
        assert_eq!(difference("", "a\nb\n"), ["+ a", "+ b"]);
        assert_eq!(difference("a\nb\n", "b\n"), ["- a"]);
        assert_eq!(
            difference("a\nb\nc\nd\n", "a\nB\nc\nD\n"),
            ["- b", "+ B", "- d", "+ D"]
        );
        assert_eq!(difference("a\n", "a\n"), Vec::<String>::new());
    }

    #[test]
    fn keys_and_tokens_are_not_shown_and_long_lines_are_cut() {
        let key = Step::Write {
            path: "/k".into(),
            content: b"-----BEGIN PRIVATE KEY-----\nsecret".to_vec(),
            mode: 0o600,
            before: None,
        };
        assert_eq!(
            (key.changes(), format!("{key:?}")),
            (Vec::new(), "write /k (mode 0600)".to_owned())
        );
        assert_eq!(shown("    token: hunter2"), "    token: ... (not shown)");
        assert_eq!(
            shown("    proxy-url: http://me:hunter2@proxy:3128"),
            "    proxy-url: ... (not shown)"
        );
        assert_eq!(
            shown("    proxy-url: http://proxy:3128"),
            "    proxy-url: http://proxy:3128"
        );
        let long = format!("certificate-authority-data: {}", "A".repeat(1000));
        assert_eq!(
            shown(&long),
            format!(
                "certificate-authority-data: {}... (1028 characters)",
                "A".repeat(32)
            )
        );
    }
}
