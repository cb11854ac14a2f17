//! The root directory of the node: `/`, or a scratch copy that tests and image builders work on.
//!
//! Everything else speaks of paths as the node sees them; only here do they become paths of this machine.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Far above any chain of symbolic links that is not a circle.
const MOST_LINKS: usize = 16;

/// The root directory of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// A file as it was found.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) bytes: Vec<u8>,
    /// The permission bits.
    pub(super) mode: u32,
}

impl std::fmt::Debug for Existing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.bytes.len(), self.mode)
    }
}

impl Root {
    /// The root at this directory of this machine.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Whether this is not the machine itself.
    pub fn is_scratch(&self) -> bool {
        self.0 != Path::new("/")
    }

    /// Where `path` of the node is on this machine.
    pub fn on_machine(&self, path: &Path) -> PathBuf {
        let below = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)));
        below.fold(self.0.clone(), |at, part| at.join(part))
    }

    /// `path` with a symbolic link at its end followed, also if it is absolute: kubelet's
    /// `kubelet-client-current.pem` is one.
    ///
    /// # Errors
    /// The link cannot be read, or there are too many.
    pub(super) fn followed(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let at = self.on_machine(&path);
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_symlink() => {
                    let target = fs::read_link(&at)?;
                    path = path.parent().unwrap_or(Path::new("/")).join(target);
                }
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many symbolic links"))
    }

    /// What is at `path`, `None` if nothing is.
    ///
    /// # Errors
    /// Anything but its absence.
    pub(super) fn read(&self, path: &Path) -> io::Result<Option<Existing>> {
        let at = self.on_machine(&self.followed(path)?);
        let mode = match fs::metadata(&at) {
            Ok(metadata) if metadata.is_file() => metadata.permissions().mode() & 0o7777,
            Ok(_) => return Err(io::Error::other("not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = fs::read(&at)?;
        Ok(Some(Existing { bytes, mode }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_node_stay_below_its_root() {
        let root = Root::new("/scratch");
        assert_eq!(root.on_machine(Path::new("/etc/x")), Path::new("/scratch/etc/x"));
        assert_eq!(
            root.on_machine(Path::new("/../../etc")),
            Path::new("/scratch/etc")
        );
        assert_eq!(
            Root::new("/").on_machine(Path::new("/etc/x")),
            Path::new("/etc/x")
        );
        assert!(root.is_scratch() && !Root::new("/").is_scratch());
    }

    #[test]
    fn absolute_links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pki")).unwrap();
        std::os::unix::fs::symlink("/pki/2026.pem", dir.path().join("pki/current.pem")).unwrap();
        std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
        let root = Root::new(dir.path());
        assert_eq!(
            root.followed(Path::new("/pki/current.pem")).unwrap(),
            Path::new("/pki/2026.pem")
        );
        assert_eq!(root.read(Path::new("/pki/current.pem")).unwrap(), None);
        assert!(root.read(Path::new("/circle")).is_err());
        assert!(root.read(Path::new("/pki")).is_err(), "a directory is no file");
    }
}
