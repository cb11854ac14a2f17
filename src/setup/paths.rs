//! Where things are on a node.

use std::path::{Path, PathBuf};

/// The first line of each file that install writes starts so; a file without it is somebody's own.
pub(super) const MARK: &str = "# Written by `edgehold install`";

pub(super) const CONFIG_DIR: &str = "/etc/edgehold";
pub(super) const PKI_DIR: &str = "/etc/edgehold/pki";
pub(super) const UNIT_DIR: &str = "/etc/systemd/system";
pub(super) const UNIT: &str = "/etc/systemd/system/edgehold.service";

/// The local authority that kubelet then trusts besides the cluster's. Its key is thrown away once it has signed.
pub(super) const LOCAL_CA: &str = "/etc/edgehold/pki/ca.crt";
pub(super) const SERVER_CERT: &str = "/etc/edgehold/pki/server.crt";
pub(super) const SERVER_KEY: &str = "/etc/edgehold/pki/server.key";
/// The cluster's authorities, where the kubeconfig embeds them.
pub(super) const CLUSTER_CA: &str = "/etc/edgehold/pki/cluster-ca.crt";
/// User and password of the proxy that a kubeconfig names.
pub(super) const PROXY_CREDENTIALS: &str = "/etc/edgehold/pki/proxy-credentials";

/// kubeadm's, on every node that has joined.
pub(super) const KUBEADM_CA: &str = "/etc/kubernetes/pki/ca.crt";
/// kubelet's default `--cert-dir`; it rotates into this file.
pub(super) const KUBELET_PAIR: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// kubeadm writes kubelet's `--hostname-override` here.
pub(super) const KUBEADM_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
pub(super) const HOSTNAMES: [&str; 2] = ["/proc/sys/kernel/hostname", "/etc/hostname"];
pub(super) const BINARY: &str = "/usr/local/bin/edgehold";
pub(super) const STATE_DIR: &str = "/var/lib/edgehold";
pub(super) const SYSTEMD: &str = "/run/systemd/system";

/// Where kube-proxy's kubeconfig is if it runs on the host and not as kubeadm's DaemonSet.
pub(super) const KUBE_PROXY: [&str; 4] = [
    "/etc/kubernetes/kube-proxy.conf",
    "/etc/kubernetes/kube-proxy.kubeconfig",
    "/var/lib/kube-proxy/kubeconfig",
    "/var/lib/kube-proxy/kubeconfig.conf",
];

/// How the name of a file begins that is written and not yet in its place; [`SCRATCH_LETTERS`] at random follow.
pub(super) const SCRATCH_PREFIX: &str = ".edgehold-";
pub(super) const SCRATCH_LETTERS: usize = 6;

/// Where the file is kept as it was before.
pub(super) fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".edgehold-backup");
    name.into()
}
