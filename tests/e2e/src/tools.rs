//! Where the real programs come from: `KUBEBUILDER_ASSETS` if it is set, else built from `go.mod` into the user's cache.
//!
//! A program is built again only when `go.mod`, `go.sum`, the Go toolchain or its own sources change.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::env;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

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
    /// The command line of people.
    Kubectl,
    /// Our own client on client-go.
    Client,
    /// kube-proxy that notes instead of programming.
    Proxy,
    /// A manager on controller-runtime.
    Manager,
}

impl Tool {
    /// The name of the program and of its directory: `cmd/NAME`, or `NAME` if that is a module of its own.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubemark => "kubemark",
            Self::Kubectl => "kubectl",
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Manager => "manager",
        }
    }

    /// Whether the program can be taken from `KUBEBUILDER_ASSETS`: ours have names that mean something else elsewhere.
    fn is_released(self) -> bool {
        !matches!(self, Self::Client | Self::Proxy | Self::Manager)
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
    /// Finds or builds each of `wanted`. One that cannot be had is not an error here: it is said by [`Tools::lack`].
    pub(crate) fn provide(wanted: &[Tool]) -> anyhow::Result<Self> {
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
                    tools.paths.insert(tool, builder.build(tool)?);
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

struct Builder {
    module: PathBuf,
    out: PathBuf,
    toolchain: String,
    kubernetes: String,
}

impl Builder {
    /// `Err` is the reason, in one line, why nothing can be built.
    fn new() -> Result<Self, String> {
        let toolchain = Command::new("go").arg("version").output();
        let toolchain =
            toolchain.map_err(|_| "no Go toolchain in PATH, and not in KUBEBUILDER_ASSETS".to_owned())?;
        let module = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let versions =
            std::fs::read_to_string(module.join("go.mod")).map_err(|error| format!("go.mod: {error}"))?;
        let version = |module: &str| {
            let line = versions
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with(module));
            line.and_then(|line| line.split(' ').nth(1)).map(str::to_owned)
        };
        let kubernetes = version("k8s.io/kubernetes ").ok_or("go.mod names no k8s.io/kubernetes")?;
        let etcd = version("go.etcd.io/etcd/server/v3 ").ok_or("go.mod names no etcd")?;
        let cache = cache()?;
        Ok(Self {
            module,
            out: cache.join(format!("kubernetes-{kubernetes}+etcd-{etcd}")),
            toolchain: String::from_utf8_lossy(&toolchain.stdout).trim().to_owned(),
            kubernetes,
        })
    }

    fn build(&self, tool: Tool) -> anyhow::Result<PathBuf> {
        let (name, path) = (tool.as_str(), self.out.join(tool.as_str()));
        let (stamp, stamp_path) = (self.stamp(tool)?, self.out.join(format!("{name}.stamp")));
        if path.is_file() && std::fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
            return Ok(path);
        }
        println!(
            "building {name} of Kubernetes {} (minutes the first time)",
            self.kubernetes
        );
        let start = Instant::now();
        std::fs::create_dir_all(&self.out)?;
        let sources = self.sources(tool);
        let status = Command::new("go")
            .current_dir(&sources)
            .env("CGO_ENABLED", "0")
            .args(["build", "-ldflags", &self.link_flags(), "-o"])
            .arg(&path)
            .arg(".")
            .status()
            .context("go build")?;
        if !status.success() {
            bail!("go build in {} failed", sources.display());
        }
        std::fs::write(stamp_path, stamp)?;
        println!("built {name} in {} s", start.elapsed().as_secs());
        Ok(path)
    }

    fn sources(&self, tool: Tool) -> PathBuf {
        match tool {
            Tool::Manager => self.module.join(tool.as_str()),
            _ => self.module.join("cmd").join(tool.as_str()),
        }
    }

    /// Programs report the release they are built from, as the released ones do; clients decide by it.
    fn link_flags(&self) -> String {
        let mut numbers = self.kubernetes.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or(""), numbers.next().unwrap_or(""));
        let mut flags = "-s -w".to_owned();
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            let version = [
                ("gitVersion", self.kubernetes.as_str()),
                ("gitMajor", major),
                ("gitMinor", minor),
            ];
            for (name, value) in version {
                flags.push_str(&format!(" -X {package}.{name}={value}"));
            }
        }
        flags
    }

    /// Changes when the program has to be built again.
    fn stamp(&self, tool: Tool) -> anyhow::Result<String> {
        let mut hasher = DefaultHasher::new();
        self.toolchain.hash(&mut hasher);
        let mut files = match tool {
            Tool::Manager => Vec::new(),
            _ => vec![self.module.join("go.mod"), self.module.join("go.sum")],
        };
        for entry in std::fs::read_dir(self.sources(tool))? {
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
