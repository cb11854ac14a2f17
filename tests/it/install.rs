//! `edgehold install` and `uninstall` in a scratch root laid out as kubeadm leaves a node.
#![allow(clippy::disallowed_methods)] // the node's files are written here

mod interrupted;
mod kubeconfigs;
mod node;
mod pods;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};

use apiserver_standin::{Client, Options as StandinOptions, Pki, Standin};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::app::App;
use edgehold::cli::Exit;
use edgehold::config::kubeconfig::{Authority, Kubeconfig};
use edgehold::setup::{Data, Executor, Facts, Manager, Port, Step};

use node::{
    ALL, BOOTSTRAP, KUBELET_CONF, LOCAL, Machine, SERVER, Scratch, install_steps, kubelet_conf, problems,
    uninstall_steps,
};

#[test]
fn install_points_kubelet_here_and_changes_nothing_else_of_its_kubeconfig() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    node.done(&["install"]);
    let after = node.read(KUBELET_CONF);
    let changed: Vec<(&str, &str)> = before
        .lines()
        .zip(after.lines())
        .filter(|(a, b)| a != b)
        .collect();
    let [(_, authority), (_, server)] = changed[..] else {
        panic!("two lines change: {changed:?}")
    };
    assert_eq!(server, format!("    server: {LOCAL}  # the load balancer"));
    assert!(
        authority.starts_with("    certificate-authority-data: "),
        "{authority}"
    );
    assert_eq!(before.lines().count(), after.lines().count());
    assert_eq!(node.mode(KUBELET_CONF), 0o600);
    assert_eq!(node.read("etc/kubernetes/kubelet.conf.edgehold-backup"), before);
    assert_eq!(node.mode("etc/kubernetes/kubelet.conf.edgehold-backup"), 0o600);
    let Authority::Data(trusted) = node.kubeconfig(KUBELET_CONF).authority else {
        panic!()
    };
    let cluster = node.read("etc/kubernetes/pki/ca.crt");
    assert_eq!(
        String::from_utf8(trusted).unwrap(),
        cluster + &node.read("etc/edgehold/pki/ca.crt")
    );
}

#[test]
fn what_install_writes_is_private_where_it_must_be_and_check_accepts_it() {
    let node = Scratch::joined();
    node.done(&["install"]);
    assert_eq!(node.mode("etc/edgehold/pki"), 0o700);
    assert_eq!(node.mode("etc/edgehold/pki/server.key"), 0o600);
    let config = node.config();
    assert_eq!(config.listen.addresses, ["127.0.0.1:51003".parse().unwrap()]);
    assert_eq!(config.upstream.urls, [SERVER]);
    let client = &config.clients[0];
    assert_eq!(client.common_name, "system:node:edge-1");
    let pair = Path::new("/var/lib/kubelet/pki/kubelet-client-current.pem");
    assert_eq!(
        (client.cert_file.as_path(), client.key_file.as_path()),
        (pair, pair)
    );
    assert_eq!(
        config.listen.tls.client_ca_file,
        Path::new("/etc/kubernetes/pki/ca.crt")
    );
    let written: Vec<PathBuf> = node
        .tree()
        .0
        .into_keys()
        .filter(|path| path.starts_with(node.at("etc/edgehold")))
        .collect();
    assert!(
        !written.iter().any(|path| path.ends_with("ca.key")),
        "the authority's key is nowhere: {written:?}"
    );
}

#[test]
fn a_second_install_changes_nothing_and_says_so() {
    let node = Scratch::joined();
    node.done(&["install"]);
    let installed = node.tree();
    let said = node.done(&["install"]);
    assert!(said.contains("nothing to do: edgehold is installed"), "{said}");
    assert_eq!(node.tree(), installed);
}

#[test]
fn uninstall_leaves_every_byte_and_mode_as_it_was() {
    let node = Scratch::joined();
    let before = node.tree();
    node.done(&["install"]);
    assert_ne!(node.tree(), before);
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
    let said = node.done(&["uninstall"]);
    assert!(
        said.contains("nothing to do: edgehold is not installed"),
        "{said}"
    );
}

#[test]
fn the_cache_goes_only_when_asked() {
    let node = Scratch::joined();
    node.done(&["install"]);
    let view = format!("var/lib/edgehold/{0}/{0}.log", "0".repeat(32));
    for path in ["var/lib/edgehold/lock", "var/lib/edgehold/mine/photo.log", &view] {
        node.write(path, "x", 0o600);
    }
    let said = node.done(&["uninstall"]);
    assert!(
        said.contains("the cache stays in /var/lib/edgehold: remove it with --purge"),
        "{said}"
    );
    assert!(node.at(&view).exists());
    node.done(&["uninstall", "--purge"]);
    assert!(!node.at(&view).exists() && !node.at("var/lib/edgehold/lock").exists());
    assert!(
        node.at("var/lib/edgehold/mine/photo.log").exists(),
        "no part of the cache"
    );

    node.write("var/lib/edgehold/lock", "x", 0o600);
    std::fs::remove_dir_all(node.at("var/lib/edgehold/mine")).unwrap();
    node.done(&["uninstall", "--purge"]);
    assert!(!node.at("var/lib/edgehold").exists());
}

#[test]
fn a_dry_run_touches_nothing_and_shows_what_would_change_but_no_key() {
    let node = Scratch::joined();
    let before = node.tree();
    let said = node.done(&["install", "--dry-run"]);
    assert_eq!(node.tree(), before);
    for line in [
        "would:",
        "  write /etc/edgehold/pki/server.key (mode 0600)",
        "      + kind: ProxyConfiguration",
        "  edit /etc/kubernetes/kubelet.conf",
        "      -     server: https://203.0.113.10:6443  # the load balancer",
        "      +     server: https://127.0.0.1:51003  # the load balancer",
        "nothing was changed",
    ] {
        assert!(said.lines().any(|one| one == line), "{line}\nin\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY") && !said.contains("BEGIN"), "{said}");
    node.done(&["install"]);
    let installed = node.tree();
    let said = node.done(&["uninstall", "--dry-run"]);
    assert!(
        said.contains("put /etc/kubernetes/kubelet.conf back as it was"),
        "{said}"
    );
    assert_eq!(node.tree(), installed);
}

#[test]
fn a_configuration_that_was_changed_by_hand_is_kept_unless_it_should_not_be() {
    let node = Scratch::joined();
    node.done(&["install"]);
    let written = node.read("etc/edgehold/config.yaml");
    node.write(
        "etc/edgehold/config.yaml",
        &(written.clone() + "log: {level: debug}\n"),
        0o644,
    );
    let said = node.done(&["install"]);
    assert!(
        said.contains("changed by hand, kept as it is") && said.contains("nothing to do"),
        "{said}"
    );
    node.done(&["install", "--replace-config"]);
    assert_eq!(node.read("etc/edgehold/config.yaml"), written);

    node.write(
        "etc/edgehold/config.yaml",
        &(written + "log: {level: lots}\n"),
        0o644,
    );
    let said = node.refused(&["install"]);
    assert!(said.contains("is not right: see edgehold check"), "{said}");
}

#[test]
fn another_address_moves_everything_there() {
    let node = Scratch::joined();
    let before = node.tree();
    node.done(&["install"]);
    let said = node.refused(&["install", "--address", "127.0.0.2:443"]);
    assert!(said.contains("does not listen at 127.0.0.2:443"), "{said}");
    node.done(&["uninstall"]);
    node.done(&["install", "--address", "127.0.0.2:443"]);
    assert_eq!(node.kubeconfig(KUBELET_CONF).server, "https://127.0.0.2:443");
    let unit = node.read("etc/systemd/system/edgehold.service");
    assert!(
        unit.contains("\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"),
        "{unit}"
    );
    let said = node.done(&["install"]);
    assert!(
        said.contains("nothing to do"),
        "the configured address is the default: {said}"
    );
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_node_serves_its_kubelet_as_its_kubeconfig_says() {
    let api = Standin::start(StandinOptions::default());
    let pki = api.pki();
    let cloud = format!("https://{}", api.addr());
    let node = Scratch::joined_to(pki, &cloud);
    // The system chooses a port that is free; it is given back just before edgehold takes it.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    node.done(&["install", "--address", &port]);
    let text = node.read("etc/edgehold/config.yaml");
    let root = node.dir.path().display().to_string();
    let text = text
        .replace("File: /", &format!("File: {root}/"))
        .replace("kubelet-client-current", "kubelet-client-2026") // the link leads out of the scratch root
        + &format!("cache: {{path: {root}/cache}}\n");
    let running = App::bind(edgehold::config::parse(&text, "installed").unwrap())
        .await
        .unwrap()
        .spawn();

    let Kubeconfig {
        server,
        authority: Authority::Data(ca),
        ..
    } = node.kubeconfig(KUBELET_CONF)
    else {
        panic!()
    };
    assert_eq!(server, format!("https://{port}"));
    let pair = pki.client(Some("system:node:edge-1"), &["system:nodes"]);
    let kubelet = Client::new(
        port.parse().unwrap(),
        &String::from_utf8(ca).unwrap(),
        Some(&pair),
    );
    let answer = kubelet.get("/version").await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    running.stop().await;
}
