//! Where the real programs come from: `KUBEBUILDER_ASSETS` if it is set, else built from `versions/` into the user's cache.
//!
//! A program is built again only when its version's files, the Go toolchain or its own sources change.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::versions::{Version, Versions, module};

/// A program that scenarios need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    /// The store of the cluster.
    Etcd,
    /// The apiserver.
    KubeApiserver,
    /// Makes service accounts, watches nodes, evicts pods.
    KubeControllerManager,
    /// The hollow kubelet.
    Kubemark,
    /// The hollow kubelet of the oldest version.
    OldKubemark,
    /// The command line of people.
    Kubectl,
    /// Our own client on client-go.
    Client,
    /// kube-proxy that notes instead of programming.
    Proxy,
    /// A manager on controller-runtime.
    Manager,
    /// CoreDNS, driven line by line.
    CoreDns,
    /// flanneld's subnet manager, driven line by line.
    Flanneld,
}

impl Tool {
    /// The name of the program and of its directory: `cmd/NAME`, or `NAME` if that is a module of its own.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubemark | Self::OldKubemark => "kubemark",
            Self::Kubectl => "kubectl",
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Manager => "manager",
            Self::CoreDns => "coredns",
            Self::Flanneld => "flanneld",
        }
    }

    /// Whether the program can be taken from `KUBEBUILDER_ASSETS`: ours have names that mean something else elsewhere.
    fn is_released(self) -> bool {
        !matches!(
            self,
            Self::OldKubemark | Self::Client | Self::Proxy | Self::Manager | Self::CoreDns | Self::Flanneld
        )
    }

    /// Whether the program is a module of its own, and so the same for every version of Kubernetes.
    fn is_module(self) -> bool {
        matches!(self, Self::Manager | Self::CoreDns | Self::Flanneld)
    }

    /// What it is built from.
    fn version(self, versions: &Versions) -> &Version {
        match self {
            _ if self.is_module() => &versions.newest,
            Self::OldKubemark => &versions.oldest,
            _ => &versions.chosen,
        }
    }

    /// The directory of its sources.
    fn sources(self) -> PathBuf {
        match self {
            _ if self.is_module() => module().join(self.as_str()),
            _ => module().join("cmd").join(self.as_str()),
        }
    }
}

/// The programs that were found or built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    paths: BTreeMap<Tool, PathBuf>,
    missing: BTreeMap<Tool, String>,
    edgehold: PathBuf,
}

impl Tools {
    /// Finds or builds each of `wanted`. One that cannot be had is not an error here, nor is one that is not built by
    /// `deadline`: [`Tools::lack`] says it.
    pub(crate) fn provide(
        versions: &Versions,
        wanted: &[Tool],
        deadline: Option<Instant>,
    ) -> anyhow::Result<Self> {
        let builder = Builder::new();
        let assets = env::var_os("KUBEBUILDER_ASSETS")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from);
        let mut tools = Self::default();
        for &tool in wanted {
            let given = assets
                .as_ref()
                .map(|dir| dir.join(tool.as_str()))
                .filter(|path| tool.is_released() && path.is_file());
            match (given, &builder) {
                (Some(path), _) => {
                    tools.paths.insert(tool, path);
                }
                (None, Ok(builder)) => {
                    match builder.build(tool, tool.version(versions), deadline)? {
                        Some(path) => tools.paths.insert(tool, path).map(drop),
                        None => tools.missing.insert(tool, LATE.to_owned()).map(drop),
                    };
                }
                (None, Err(reason)) => {
                    tools.missing.insert(tool, reason.clone());
                }
            }
        }
        Ok(tools)
    }

    /// Builds the binary under test, or takes `EDGEHOLD_BIN`.
    pub(crate) fn build_edgehold(&mut self) -> anyhow::Result<()> {
        if let Some(path) = env::var_os("EDGEHOLD_BIN") {
            self.edgehold = PathBuf::from(path);
            return Ok(());
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "edgehold", "--bin", "edgehold"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .context("cargo build")?;
        anyhow::ensure!(built.success(), "cargo build --bin edgehold failed");
        self.edgehold = env::current_exe()?.with_file_name("edgehold");
        Ok(())
    }

    /// The binary under test.
    pub(crate) fn edgehold(&self) -> &Path {
        &self.edgehold
    }

    /// The path of a program that [`Tools::lack`] does not name.
    pub(crate) fn path(&self, tool: Tool) -> &Path {
        &self.paths[&tool]
    }

    /// The first of `wanted` that is not there, and why, in one line.
    pub(crate) fn lack(&self, wanted: &[Tool]) -> Option<String> {
        let (tool, reason) = wanted.iter().find_map(|tool| self.missing.get_key_value(tool))?;
        Some(format!("{} is missing: {reason}", tool.as_str()))
    }
}

/// Where the tier keeps what it has built; `Err` says why there is no such place.
pub(crate) fn cache() -> Result<PathBuf, String> {
    let user = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let user = user.ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(user.join("edgehold/e2e"))
}

/// Why a program is missing that could have been built.
const LATE: &str = "it was not built in the time that --build-within leaves; what is compiled is kept";

/// How long go may take to end what it compiles.
const GRACE: Duration = Duration::from_secs(60);

/// Runs go, and stops it at `deadline` as Ctrl-C does: what it compiles just then is ended and kept. `None`: it was stopped.
fn by(deadline: Option<Instant>, command: &mut Command) -> anyhow::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let Some(deadline) = deadline else {
        return Ok(Some(child.wait()?));
    };
    let mut is_stopped = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status).filter(|_| !is_stopped));
        }
        let now = Instant::now();
        if now >= deadline && !is_stopped {
            is_stopped = true;
            let interrupt = ["-INT", &child.id().to_string()];
            Command::new("kill").args(interrupt).status().context("kill")?;
        }
        if now >= deadline + GRACE {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

struct Builder {
    cache: PathBuf,
    toolchain: String,
}

impl Builder {
    /// `Err` is the reason, in one line, why nothing can be built.
    fn new() -> Result<Self, String> {
        let toolchain = Command::new("go").arg("version").output();
        let toolchain =
            toolchain.map_err(|_| "no Go toolchain in PATH, and not in KUBEBUILDER_ASSETS".to_owned())?;
        Ok(Self {
            cache: cache()?,
            toolchain: String::from_utf8_lossy(&toolchain.stdout).trim().to_owned(),
        })
    }

    /// `None`: it is not built by `deadline`.
    fn build(
        &self,
        tool: Tool,
        version: &Version,
        deadline: Option<Instant>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let (name, release) = (tool.as_str(), version.release());
        let out = self.cache.join(format!("kubernetes-{release}"));
        let (path, stamp_path) = (out.join(name), out.join(format!("{name}.stamp")));
        let stamp = self.stamp(tool, version)?;
        if path.is_file() && std::fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
            return Ok(Some(path));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
        println!("building {name} of Kubernetes {release} (minutes the first time)");
        let start = Instant::now();
        std::fs::create_dir_all(&out)?;
        let mut build = Command::new("go");
        build
            .current_dir(tool.sources())
            .env("CGO_ENABLED", "0")
            // Nobody debugs them, and compiling takes an eighth less.
            .args(["build", "-gcflags=all=-dwarf=false"])
            .args(["-ldflags", &version.link_flags(), "-o"])
            .arg(&path);
        if !tool.is_module() {
            let [file, _] = version.files();
            build
                .arg("-modfile")
                .arg(file)
                .args(["-tags", &version.build_tag()]);
        }
        let Some(status) = by(deadline, build.arg(".")).context("go build")? else {
            println!("stopped building {name} after {} s", start.elapsed().as_secs());
            return Ok(None);
        };
        if !status.success() {
            bail!("go build in {} failed", tool.sources().display());
        }
        std::fs::write(stamp_path, stamp)?;
        println!("built {name} in {} s", start.elapsed().as_secs());
        Ok(Some(path))
    }

    /// Changes when the program has to be built again.
    fn stamp(&self, tool: Tool, version: &Version) -> anyhow::Result<String> {
        let mut hasher = DefaultHasher::new();
        self.toolchain.hash(&mut hasher);
        let mut files = match tool {
            _ if tool.is_module() => Vec::new(),
            _ => version.files().to_vec(),
        };
        for entry in std::fs::read_dir(tool.sources())? {
            files.push(entry?.path());
        }
        files.sort();
        for file in files {
            std::fs::read(&file)
                .with_context(|| file.display().to_string())?
                .hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}
