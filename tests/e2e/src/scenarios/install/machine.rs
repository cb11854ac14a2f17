//! A machine as kubeadm leaves a node: a root directory, entered by chroot in the network namespace of the node.
//!
//! The programs of this machine are bound into it, so that `edgehold install` finds a shell, `systemctl` (ours) and itself where
//! they belong. Nothing of it is seen outside: mounts end with the process that made them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::kubectl::Said;

/// What a program in it finds its programs by.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin";

/// The root directory of a node, and the namespace that it is entered in.
#[derive(Clone)]
pub(super) struct Machine {
    root: PathBuf,
    namespace: String,
}

/// What a program may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    All,
    /// Its state directory, as edgehold's unit says.
    StateDirectory,
}

impl Access {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "rw",
            Self::StateDirectory => "ro",
        }
    }
}

impl Machine {
    /// An empty one, with the system's programs and our `systemctl`.
    pub(super) fn make(root: &Path, namespace: &str) -> anyhow::Result<Self> {
        let machine = Self {
            root: root.to_owned(),
            namespace: namespace.to_owned(),
        };
        for dir in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "proc",
            "sys",
            "dev",
            "root",
        ] {
            fs::create_dir_all(machine.at(dir))?;
        }
        for dir in ["bin", "sbin", "lib", "lib64"] {
            let real = Path::new("/").join(dir);
            match fs::read_link(&real) {
                Ok(target) => symlink(target, machine.at(dir))?,
                Err(_) if real.is_dir() => fs::create_dir(machine.at(dir))?,
                Err(_) => {}
            }
        }
        fs::create_dir_all(machine.at("run/systemd/system"))?;
        fs::create_dir_all(machine.at("run/systemd/asked"))?;
        fs::create_dir_all(machine.at("etc/systemd/system"))?;
        fs::create_dir_all(machine.at("tmp"))?;
        machine.write("usr/local/bin/systemctl", include_str!("systemctl.sh"), 0o755)?;
        machine.write("run/enter.sh", include_str!("enter.sh"), 0o755)?;
        Ok(machine)
    }

    /// Puts a program of ours into it, as `/usr/local/bin/NAME`.
    pub(super) fn add_program(&self, name: &str, program: &Path) -> anyhow::Result<()> {
        let to = self.at("usr/local/bin").join(name);
        if fs::hard_link(program, &to).is_err() {
            fs::copy(program, &to).with_context(|| program.display().to_string())?;
        }
        Ok(())
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn read(&self, path: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.at(path)).with_context(|| path.to_owned())
    }

    pub(super) fn write(&self, path: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let path = self.at(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// A command line of the machine.
    pub(super) fn command(&self, access: Access, environment: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace, "/bin/sh"])
            .arg(self.at("run/enter.sh"))
            .arg(&self.root)
            .args([
                access.as_str(),
                "/usr/bin/env",
                "-i",
                PATH,
                "HOME=/root",
                "TMPDIR=/tmp",
            ])
            .args(environment)
            .args(words);
        command
    }

    /// Runs a command line, as root of the machine, to its end.
    pub(super) async fn run(&self, line: &str) -> anyhow::Result<Said> {
        let words: Vec<&str> = line.split(' ').collect();
        let output = self
            .command(Access::All, &[], &words)
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Said {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Each file below `dir` with its mode and content; links by their target.
    pub(super) fn tree(&self, dir: &str) -> anyhow::Result<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
        let mut tree = BTreeMap::new();
        let mut left = vec![self.at(dir)];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let metadata = fs::symlink_metadata(&path)?;
                let content = if metadata.is_symlink() {
                    fs::read_link(&path)?.into_os_string().into_encoded_bytes()
                } else if metadata.is_dir() {
                    left.push(path.clone());
                    Vec::new()
                } else {
                    fs::read(&path)?
                };
                tree.insert(path, (metadata.permissions().mode() & 0o7777, content));
            }
        }
        Ok(tree)
    }
}

/// Fails with the first thing that is different.
pub(super) fn same(
    before: &BTreeMap<PathBuf, (u32, Vec<u8>)>,
    after: &BTreeMap<PathBuf, (u32, Vec<u8>)>,
) -> anyhow::Result<()> {
    for (path, was) in before {
        ensure!(
            after.get(path) == Some(was),
            "{} is not as it was",
            path.display()
        );
    }
    let new = after.keys().find(|path| !before.contains_key(*path));
    ensure!(new.is_none(), "{new:?} was not there");
    Ok(())
}
