//! Plans carried out: each step in one piece, and on the disk before the next.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::host::Host;
use super::paths;
use super::root::Root;
use super::step::Step;
use crate::store;

/// A step that did not work. Those before it are done, and it is not; doing it all again goes on here.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A file or directory.
    #[error("{step}: {source}")]
    File {
        /// What was to be done.
        step: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something beyond the files.
    #[error("{step}: {said}")]
    Machine {
        /// What was to be done.
        step: String,
        /// What was said.
        said: String,
    },
}

/// Carries out steps below a root.
#[derive(Debug)]
pub struct Executor<'h, H> {
    root: &'h Root,
    host: &'h mut H,
}

impl<'h, H: Host> Executor<'h, H> {
    /// On this node.
    pub fn new(root: &'h Root, host: &'h mut H) -> Self {
        Self { root, host }
    }

    /// Does it.
    ///
    /// # Errors
    /// It did not work, and changed nothing.
    pub fn run(&mut self, step: &Step) -> Result<(), ExecuteError> {
        let machine = match step {
            Step::Systemd(action) => Some(self.host.systemd(*action)),
            Step::RemoveInterface { name, addresses } => Some(self.host.remove_interface(name, addresses)),
            Step::AwaitReady { address, name, ca } => {
                let ready = self.host.await_ready(*address, *name, ca);
                Some(ready.map_err(|said| format!("{said}; journalctl -u edgehold says why")))
            }
            _ => None,
        };
        if let Some(done) = machine {
            return done.map_err(|said| ExecuteError::Machine {
                step: step.to_string(),
                said,
            });
        }
        self.change(step).map_err(|source| ExecuteError::File {
            step: step.to_string(),
            source,
        })
    }

    fn change(&self, step: &Step) -> io::Result<()> {
        let at = |path: &Path| self.root.on_machine(path);
        match step {
            Step::Directory { path, mode } => make_directory(&at(path), *mode),
            Step::Write {
                path, content, mode, ..
            } => {
                let path = at(path);
                make_directory(&parent(&path), 0o755)?;
                replace(&path, content, &Like::Mode(*mode))
            }
            Step::Backup { path, to } => copy(&at(path), &at(to)),
            Step::Edit { path, after, .. } => {
                let path = at(path);
                replace(&path, after.as_bytes(), &Like::File(path.clone()))
            }
            Step::Restore { path, from } => rename(&at(from), &at(path)),
            Step::Remove { path } => absent_is_done(remove_file(&at(path))),
            Step::RemoveEmpty { path } => match fs::remove_dir(at(path)) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                done => absent_is_done(done),
            },
            // The configuration may name any directory: what is no cache stays.
            Step::Purge { path } => store::purge(&at(path)).map_err(io::Error::other),
            // The machine's, done above.
            Step::RemoveInterface { .. } | Step::Systemd(_) | Step::AwaitReady { .. } => Ok(()),
        }
    }
}

/// Whose mode and owner a new file gets.
enum Like {
    Mode(u32),
    File(PathBuf),
}

/// In one piece: a reader finds the old content or the new.
fn replace(path: &Path, content: &[u8], like: &Like) -> io::Result<()> {
    let dir = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(paths::SCRATCH_PREFIX)
        .rand_bytes(paths::SCRATCH_LETTERS)
        .tempfile_in(&dir)?;
    file.write_all(content)?;
    match like {
        Like::Mode(mode) => file.as_file().set_permissions(Permissions::from_mode(*mode))?,
        Like::File(model) => {
            let model = fs::metadata(model)?;
            let ours = file.as_file().metadata()?;
            if (model.uid(), model.gid()) != (ours.uid(), ours.gid()) {
                fchown(file.as_file(), Some(model.uid()), Some(model.gid()))?;
            }
            file.as_file()
                .set_permissions(Permissions::from_mode(model.mode() & 0o7777))?;
        }
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

fn copy(path: &Path, to: &Path) -> io::Result<()> {
    let content = fs::read(path)?;
    replace(to, &content, &Like::File(path.to_owned()))
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

#[allow(clippy::disallowed_methods)] // the backup itself becomes the file again, with its mode and owner
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(parent(to))?.sync_all()
}

#[allow(clippy::disallowed_methods)] // what install wrote, uninstall removes
fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

fn absent_is_done(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
