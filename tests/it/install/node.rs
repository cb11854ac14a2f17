//! A node's root directory as kubeadm leaves it, and a machine for it that only remembers what it was told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use apiserver_standin::Pki;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::cli::{self, Exit};
use edgehold::config::Config;
use edgehold::config::kubeconfig::Kubeconfig;
use edgehold::runtime::clock;
use edgehold::setup::{
    Data, Executor, Facts, Host, Kubelet, Manager, Options, Port, Replace, Root, ServingCertificate, Step,
    SystemdAction, install, uninstall,
};

pub const SERVER: &str = "https://203.0.113.10:6443";
pub const LOCAL: &str = "https://127.0.0.1:51003";
pub const KUBELET_CONF: &str = "etc/kubernetes/kubelet.conf";
pub const BOOTSTRAP: &str = "etc/kubernetes/bootstrap-kubelet.conf";

/// A node's root directory.
pub struct Scratch {
    pub dir: tempfile::TempDir,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, (u32, Vec<u8>)>);

/// Names and modes: contents hold keys, and fill screens.
impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.iter().map(|(path, (mode, content))| {
            let content = String::from_utf8_lossy(content);
            (
                path,
                format!(
                    "{mode:o} {} bytes, {} lines",
                    content.len(),
                    content.lines().count()
                ),
            )
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Scratch {
    /// A node that has joined.
    pub fn joined() -> Self {
        Self::joined_to(&Pki::new(), SERVER)
    }

    pub fn joined_to(pki: &Pki, server: &str) -> Self {
        let node = Self::empty(pki);
        node.write(KUBELET_CONF, &kubelet_conf(pki, server), 0o600);
        let pair = pki.client(Some("system:node:edge-1"), &["system:nodes"]);
        node.add_kubelet_pair(&(pair.cert_pem + &pair.key_pem));
        node
    }

    /// A node that is prepared and has not joined.
    pub fn to_join() -> Self {
        let pki = Pki::new();
        let node = Self::empty(&pki);
        node.write(BOOTSTRAP, &bootstrap_conf(&pki), 0o600);
        node
    }

    pub fn empty(pki: &Pki) -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        node.write("etc/kubernetes/pki/ca.crt", pki.ca_pem(), 0o644);
        node.write("usr/local/bin/edgehold", "", 0o755);
        node.write("etc/hostname", "Edge-1\n", 0o644);
        fs::create_dir_all(node.at("etc/systemd/system")).unwrap();
        node
    }

    pub fn add_kubelet_pair(&self, pem: &str) {
        self.write("var/lib/kubelet/pki/kubelet-client-2026.pem", pem, 0o600);
        // As kubelet: the link is absolute.
        let link = self.at("var/lib/kubelet/pki/kubelet-client-current.pem");
        symlink("/var/lib/kubelet/pki/kubelet-client-2026.pem", link).unwrap();
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub fn kubeconfig(&self, path: &str) -> Kubeconfig {
        Kubeconfig::parse(&self.read(path), &Path::new("/").join(path)).unwrap()
    }

    /// The configuration that install wrote.
    pub fn config(&self) -> Config {
        edgehold::config::load(&self.at("etc/edgehold/config.yaml")).unwrap()
    }

    pub fn run(&self, args: &[&str]) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = ["edgehold"].iter().chain(args).map(OsString::from);
        let root = [OsString::from("--root"), self.dir.path().into()];
        let exit = cli::execute(args.chain(root), |_| unreachable!(), &mut out, &mut err);
        apiserver_standin::secrets::search("what a command printed", &[out.as_slice(), &err].concat());
        (
            exit,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    pub fn done(&self, args: &[&str]) -> String {
        let (exit, out, err) = self.run(args);
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""), "{out}");
        out
    }

    pub fn refused(&self, args: &[&str]) -> String {
        let before = self.tree();
        let (exit, out, err) = self.run(args);
        assert_eq!((exit, out.as_str()), (Exit::Failed, ""), "{err}");
        assert_eq!(self.tree(), before, "nothing was changed");
        err
    }

    /// Every file and directory with its mode; links by their target.
    pub fn tree(&self) -> Tree {
        let mut tree = BTreeMap::new();
        let mut left = vec![self.dir.path().to_owned()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let content = if metadata.is_symlink() {
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes()
                } else if metadata.is_dir() {
                    left.push(path.clone());
                    Vec::new()
                } else {
                    fs::read(&path).unwrap()
                };
                tree.insert(path, (metadata.permissions().mode() & 0o7777, content));
            }
        }
        Tree(tree)
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().permissions().mode() & 0o7777
    }

    pub fn options(&self) -> Options {
        Options {
            root: Root::new(self.dir.path()),
            kubeconfig: "/etc/kubernetes/kubelet.conf".into(),
            bootstrap: "/etc/kubernetes/bootstrap-kubelet.conf".into(),
            kube_proxy: None,
            node_name: None,
            address: None,
            pods: None,
            serving: ServingCertificate::Local,
            client_ca: None,
            binary: None,
            replace: Replace::Keep,
            kubelet: Kubelet::Restart,
        }
    }
}

/// Two clusters and comments: only the current context's cluster is ours to change.
pub fn kubelet_conf(pki: &Pki, server: &str) -> String {
    let ca = STANDARD.encode(pki.ca_pem());
    format!(
        "\
# written by kubeadm, and commented by a person
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}  # the load balancer
  name: kubernetes
- cluster:
    certificate-authority-data: {ca}
    server: https://other.example:6443
  name: other
contexts:
- context:
    cluster: kubernetes
    user: default-auth
  name: default
current-context: default
preferences: {{}}
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
"
    )
}

pub fn bootstrap_conf(pki: &Pki) -> String {
    let text = kubelet_conf(pki, SERVER);
    let (before, _) = text.split_once("    client-certificate:").unwrap();
    format!("{before}    token: abcdef.0123456789abcdef\n")
}

/// The machine of a scratch root, with everything that a real one has; it remembers what it was told.
pub struct Machine {
    pub root: bool,
    pub manager: Manager,
    pub port: Port,
    pub ready: Result<(), String>,
    pub told: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            root: true,
            manager: Manager::Inactive,
            port: Port::Free,
            ready: Ok(()),
            told: Vec::new(),
        }
    }
}

impl Host for Machine {
    fn is_root(&self) -> bool {
        self.root
    }

    fn manager(&self) -> Manager {
        self.manager
    }

    fn port(&self, _: SocketAddr) -> Port {
        self.port
    }

    fn program(&self) -> Option<PathBuf> {
        Some("/usr/local/bin/edgehold".into())
    }

    fn now(&self) -> SystemTime {
        clock::wall()
    }

    fn systemd(&mut self, action: SystemdAction) -> Result<(), String> {
        self.told.push(action.arguments().join(" "));
        Ok(())
    }

    fn remove_interface(&mut self, name: &str, addresses: &[IpAddr]) -> Result<(), String> {
        self.told.push(format!("remove {name} {addresses:?}"));
        Ok(())
    }

    fn await_ready(&mut self, address: SocketAddr, name: IpAddr, ca: &str) -> Result<(), String> {
        assert_eq!(
            ca.matches("BEGIN CERTIFICATE").count(),
            2,
            "the cluster's and the local one"
        );
        assert_eq!(name, IpAddr::from([127, 0, 0, 1]));
        self.told.push(format!("await {address}"));
        self.ready.clone()
    }
}

/// Every step of a plan.
pub const ALL: usize = usize::MAX;

impl Machine {
    /// The first `count` steps of an install, as a process does them that is then killed.
    pub fn install(&mut self, options: &Options, count: usize) {
        self.carry_out(&install_steps(options, self), count, options);
    }

    /// The same of an uninstall.
    pub fn uninstall(&mut self, options: &Options, count: usize) {
        self.carry_out(&uninstall_steps(options, self), count, options);
    }

    pub fn carry_out(&mut self, steps: &[Step], count: usize, options: &Options) {
        let mut executor = Executor::new(&options.root, self);
        for step in steps.iter().take(count) {
            executor.run(step).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

pub fn install_steps(options: &Options, machine: &Machine) -> Vec<Step> {
    let facts = Facts::gather(options, machine).unwrap();
    install(options, &facts)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .steps
}

pub fn uninstall_steps(options: &Options, machine: &Machine) -> Vec<Step> {
    let facts = Facts::gather(options, machine).unwrap();
    uninstall(options, &facts, Data::Keep)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .steps
}

pub fn problems(options: &Options, machine: &Machine) -> String {
    let facts = Facts::gather(options, machine).unwrap();
    let problems = install(options, &facts).expect_err("something is in the way");
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
