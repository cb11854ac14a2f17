//! The versions of Kubernetes that the tier knows: one file `versions/MINOR.mod` each.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// One minor version, in the release that its file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// The number behind `1.`.
    minor: u32,
    /// As `k8s.io/kubernetes` has it: `v1.37.2`.
    release: String,
    file: PathBuf,
}

/// The versions of one run.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    /// What is tried.
    pub(crate) chosen: Version,
    /// Chosen unless the command line says otherwise.
    pub(crate) newest: Version,
    /// What an old node has.
    pub(crate) oldest: Version,
}

impl Versions {
    /// `minor` as on the command line, `1.37`; else the newest.
    pub(crate) fn choose(minor: Option<&str>) -> anyhow::Result<Self> {
        let all = Version::all()?;
        let (oldest, newest) = (all.first(), all.last());
        let (oldest, newest) = oldest.zip(newest).context("versions/ is empty")?;
        let chosen = match minor {
            None => newest,
            Some(minor) => all
                .iter()
                .find(|version| version.name() == minor)
                .with_context(|| {
                    let names: Vec<_> = all.iter().map(Version::name).collect();
                    format!("--kubernetes wants one of {}", names.join(", "))
                })?,
        };
        Ok(Self {
            chosen: chosen.clone(),
            newest: newest.clone(),
            oldest: oldest.clone(),
        })
    }
}

impl Version {
    /// Every version, the oldest first.
    fn all() -> anyhow::Result<Vec<Self>> {
        let dir = module().join("versions");
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "mod") {
                all.push(Self::read(path)?);
            }
        }
        all.sort_by_key(|version| version.minor);
        Ok(all)
    }

    fn read(file: PathBuf) -> anyhow::Result<Self> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| name.clone())?;
        let required = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
        let release = required.with_context(|| format!("{name} requires no k8s.io/kubernetes"))?;
        let minor = release.split('.').nth(1).and_then(|minor| minor.parse().ok());
        Ok(Self {
            minor: minor.with_context(|| format!("{name}: {release} is no release"))?,
            release: release.to_owned(),
            file,
        })
    }

    /// `1.37`.
    pub(crate) fn name(&self) -> String {
        format!("1.{}", self.minor)
    }

    /// `v1.37.2`.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The file with every module's version, and that with their sums.
    pub(crate) fn files(&self) -> [PathBuf; 2] {
        [self.file.clone(), self.file.with_extension("sum")]
    }

    /// What chooses among the files of `cmd/` where a library changed between versions.
    pub(crate) fn build_tag(&self) -> String {
        format!("kubernetes_1_{}", self.minor)
    }

    /// Programs report the release they are built from, as the released ones do; clients decide by it.
    pub(crate) fn link_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            flags.push_str(&format!(
                " -X {package}.gitVersion={} -X {package}.gitMajor=1 -X {package}.gitMinor={}",
                self.release, self.minor
            ));
        }
        flags
    }
}

/// The directory of the Go modules, which is this package's.
pub(crate) fn module() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
