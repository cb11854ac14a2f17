//! `edgehold install` and `uninstall` in a scratch root laid out as kubeadm leaves a node.
#![allow(clippy::disallowed_methods)] // the node's files are written here

mod node;

use std::fs;
use std::path::{Path, PathBuf};

use apiserver_standin::{Client, Options as StandinOptions, Pki, Standin};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::app::App;
use edgehold::cli::Exit;
use edgehold::config::kubeconfig::{Authority, Kubeconfig};
use edgehold::setup::{Executor, Manager, Port, Step};

use node::{
    BOOTSTRAP, KUBELET_CONF, LOCAL, Machine, SERVER, Scratch, carry_out, install_steps, kubelet_conf,
    problems, uninstall_steps,
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
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    assert_eq!(config.listen.addresses, ["127.0.0.1:51003".parse().unwrap()]);
    assert_eq!(config.upstream.servers[0].original, SERVER);
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
fn what_a_kill_left_half_written_goes_with_the_next_run() {
    let node = Scratch::joined();
    node.write("etc/kubernetes/.edgehold-notes", "not install's", 0o600);
    let before = node.tree();
    let half = [
        "etc/edgehold/pki/.edgehold-aB3dE6",
        "etc/systemd/system/.edgehold-0q1w2E",
        "etc/kubernetes/.edgehold-zzzzzz",
    ];
    let leave = || half.map(|path| node.write(path, "-----BEGIN PRIV", 0o600));
    for command in ["install", "uninstall"] {
        node.done(&["install"]);
        leave();
        let said = node.done(&[command]);
        for path in half {
            assert!(said.contains(&format!("remove /{path}")), "{said}");
            assert!(!node.at(path).exists(), "{command} {path}");
        }
    }
    assert_eq!(node.tree(), before);
    // Killed at the very first file.
    node.write(half[0], "-----BEGIN PRIV", 0o600);
    node.done(&["uninstall"]);
    assert!(!node.at("etc/edgehold").exists());
    let said = node.done(&["uninstall"]);
    assert!(said.contains("nothing to do"), "{said}");
}

#[test]
fn uninstall_keeps_what_was_changed_in_the_kubeconfig_since() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    node.done(&["install"]);
    let changed = node
        .read(KUBELET_CONF)
        .replace("preferences: {}", "preferences: {colors: true}");
    node.write(KUBELET_CONF, &changed, 0o600);
    node.done(&["uninstall"]);
    assert_eq!(
        node.read(KUBELET_CONF),
        before.replace("preferences: {}", "preferences: {colors: true}")
    );
    assert!(!node.at("etc/kubernetes/kubelet.conf.edgehold-backup").exists());
}

#[test]
fn without_its_backup_a_kubeconfig_finds_its_way_back_by_the_configuration() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    node.done(&["install"]);
    fs::remove_file(node.at("etc/kubernetes/kubelet.conf.edgehold-backup")).unwrap();
    node.done(&["uninstall"]);
    assert_eq!(node.read(KUBELET_CONF), before);
}

#[test]
fn the_cache_goes_only_when_asked() {
    let node = Scratch::joined();
    node.done(&["install"]);
    node.write("var/lib/edgehold/view.log", "x", 0o600);
    let said = node.done(&["uninstall"]);
    assert!(
        said.contains("the cache stays in /var/lib/edgehold: remove it with --purge"),
        "{said}"
    );
    assert!(node.at("var/lib/edgehold/view.log").exists());
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
fn at_each_moment_of_an_install_kubelet_has_a_whole_kubeconfig_and_the_way_is_open_on_and_back() {
    let node = Scratch::joined();
    let count = install_steps(&node.options(), &Machine::default()).len();
    assert!(count > 10, "{count}");
    for killed_after in 0..=count {
        for goes_back in [false, true] {
            let node = Scratch::joined();
            let (options, mut machine) = (node.options(), Machine::default());
            let (before, kubelet_conf) = (node.tree(), node.read(KUBELET_CONF));
            carry_out(
                &install_steps(&options, &machine),
                killed_after,
                &options,
                &mut machine,
            );
            let points_here = node.kubeconfig(KUBELET_CONF).server == LOCAL;
            if points_here {
                assert!(
                    machine.told.contains(&"await".to_owned()),
                    "only once edgehold serves"
                );
            } else {
                assert_eq!(
                    node.read(KUBELET_CONF),
                    kubelet_conf,
                    "after {killed_after} steps"
                );
            }
            if !goes_back {
                carry_out(&install_steps(&options, &machine), count, &options, &mut machine);
                machine.manager = Manager::Active;
                assert_eq!(
                    install_steps(&options, &machine),
                    [],
                    "after {killed_after} steps"
                );
                assert_eq!(node.kubeconfig(KUBELET_CONF).server, LOCAL);
            }
            carry_out(
                &uninstall_steps(&options, &machine),
                usize::MAX,
                &options,
                &mut machine,
            );
            assert_eq!(node.tree(), before, "after {killed_after} steps");
        }
    }
}

#[test]
fn at_each_moment_of_an_uninstall_the_way_is_open_on_and_back() {
    let count = {
        let node = Scratch::joined();
        node.done(&["install"]);
        uninstall_steps(&node.options(), &Machine::default()).len()
    };
    assert!(count > 5, "{count}");
    for killed_after in 0..=count {
        for goes_back in [false, true] {
            let node = Scratch::joined();
            let (options, mut machine) = (node.options(), Machine::default());
            let before = node.tree();
            carry_out(
                &install_steps(&options, &machine),
                usize::MAX,
                &options,
                &mut machine,
            );
            carry_out(
                &uninstall_steps(&options, &machine),
                killed_after,
                &options,
                &mut machine,
            );
            if goes_back {
                carry_out(
                    &install_steps(&options, &machine),
                    usize::MAX,
                    &options,
                    &mut machine,
                );
                assert_eq!(node.kubeconfig(KUBELET_CONF).server, LOCAL);
            }
            carry_out(
                &uninstall_steps(&options, &machine),
                usize::MAX,
                &options,
                &mut machine,
            );
            assert_eq!(node.tree(), before, "after {killed_after} steps");
        }
    }
}

#[test]
fn edgehold_is_started_and_seen_to_serve_before_any_kubeconfig_names_it() {
    let node = Scratch::joined();
    let (options, mut machine) = (node.options(), Machine::default());
    let steps = install_steps(&options, &machine);
    carry_out(&steps, usize::MAX, &options, &mut machine);
    assert_eq!(
        machine.told,
        [
            "daemon-reload",
            "enable edgehold.service",
            "restart edgehold.service",
            "await",
            "restart kubelet.service"
        ]
    );
    let first_edit = steps
        .iter()
        .position(|step| matches!(step, Step::Edit { .. }))
        .unwrap();
    let await_ready = steps
        .iter()
        .position(|step| matches!(step, Step::AwaitReady { .. }))
        .unwrap();
    assert!(await_ready < first_edit);
}

#[test]
fn an_edgehold_that_does_not_serve_gets_no_client() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    let options = node.options();
    let mut machine = Machine {
        ready: Err("connection refused".to_owned()),
        ..Machine::default()
    };
    let steps = install_steps(&options, &machine);
    let mut executor = Executor::new(&options.root, &mut machine);
    let error = steps.iter().find_map(|step| executor.run(step).err()).unwrap();
    assert_eq!(
        error.to_string(),
        "wait until edgehold serves at 127.0.0.1:51003: connection refused"
    );
    assert_eq!(node.read(KUBELET_CONF), before);
}

#[test]
fn a_path_that_cannot_be_written_stops_it_before_the_kubeconfig() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    fs::remove_dir(node.at("etc/systemd/system")).unwrap();
    node.write("etc/systemd/system", "a file where a directory should be", 0o644);
    let (exit, _, err) = node.run(&["install"]);
    // Looked at before anything is done.
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("/etc/systemd/system/edgehold.service"), "{err}");
    assert_eq!(node.read(KUBELET_CONF), before);
    assert!(!node.at("etc/edgehold").exists());
}

#[test]
fn a_step_that_fails_on_the_way_is_named_and_the_kubeconfig_is_whole() {
    let node = Scratch::joined();
    let before = node.read(KUBELET_CONF);
    node.write("etc/edgehold", "a file where a directory should be", 0o644);
    let (exit, _, err) = node.run(&["install"]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("/etc/edgehold"), "{err}");
    assert_eq!(node.read(KUBELET_CONF), before);
}

#[test]
fn what_install_did_not_write_it_neither_overwrites_nor_removes() {
    let node = Scratch::joined();
    node.write(
        "etc/systemd/system/edgehold.service",
        "[Service]\nExecStart=/mine\n",
        0o644,
    );
    let said = node.refused(&["install"]);
    assert!(
        said.contains("/etc/systemd/system/edgehold.service was not written by install; move it away"),
        "{said}"
    );
    let said = node.done(&["uninstall", "--purge"]);
    assert!(said.contains("was not written by install: it stays"), "{said}");
    assert!(node.at("etc/systemd/system/edgehold.service").exists());

    let node = Scratch::joined();
    node.write("etc/edgehold/config.yaml", "kind: ProxyConfiguration\n", 0o644);
    let said = node.refused(&["install"]);
    assert!(
        said.contains("/etc/edgehold/config.yaml was not written by install; move it away"),
        "{said}"
    );
    node.done(&["uninstall", "--purge"]);
    assert!(node.at("etc/edgehold/config.yaml").exists());
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

#[test]
fn a_certificate_inside_the_kubeconfig_is_copied_out_with_its_key_private() {
    let pki = Pki::new();
    let node = Scratch::empty(&pki);
    let pair = pki.client(Some("system:node:edge-1"), &["system:nodes"]);
    let text = kubelet_conf(&pki, SERVER)
        .replace(
            "client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem",
            &format!("client-certificate-data: {}", STANDARD.encode(&pair.cert_pem)),
        )
        .replace(
            "client-key: /var/lib/kubelet/pki/kubelet-client-current.pem",
            &format!("client-key-data: {}", STANDARD.encode(&pair.key_pem)),
        );
    node.write(KUBELET_CONF, &text, 0o600);
    let before = node.tree();
    let said = node.done(&["install", "--dry-run"]);
    assert!(!said.contains(&STANDARD.encode(&pair.key_pem)), "{said}");
    node.done(&["install"]);
    assert_eq!(node.read("etc/edgehold/pki/kubelet.key"), pair.key_pem);
    assert_eq!(node.mode("etc/edgehold/pki/kubelet.key"), 0o600);
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    assert_eq!(
        config.clients[0].cert_file,
        Path::new("/etc/edgehold/pki/kubelet.crt")
    );
    assert!(node.done(&["install"]).contains("nothing to do"));
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn authorities_named_by_a_path_stay_a_path() {
    let node = Scratch::joined();
    let text = node.read(KUBELET_CONF);
    let data = text
        .lines()
        .find(|line| line.contains("certificate-authority-data"))
        .unwrap();
    let by_path = text.replacen(data, "    certificate-authority: pki/ca.crt", 1);
    node.write(KUBELET_CONF, &by_path, 0o640);
    let before = node.tree();
    node.done(&["install"]);
    let trust = "/etc/edgehold/pki/trust-kubelet.crt";
    assert_eq!(
        node.kubeconfig(KUBELET_CONF).authority,
        Authority::File(trust.into())
    );
    let bundle = node.read("etc/kubernetes/pki/ca.crt") + &node.read("etc/edgehold/pki/ca.crt");
    assert_eq!(node.read("etc/edgehold/pki/trust-kubelet.crt"), bundle);
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    assert_eq!(
        config.upstream.ca_file,
        Path::new("/etc/kubernetes/pki/ca.crt"),
        "its rotation is followed"
    );
    assert!(node.done(&["install"]).contains("nothing to do"));
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn a_node_that_has_not_joined_joins_through_edgehold_and_can_leave_it() {
    let node = Scratch::to_join();
    let before = node.read(BOOTSTRAP);
    let said = node.done(&["install"]);
    assert!(
        said.contains("kubelet has not joined yet; it will as system:node:edge-1"),
        "{said}"
    );
    assert!(!said.contains("abcdef"), "{said}");
    assert_eq!(node.kubeconfig(BOOTSTRAP).server, LOCAL);

    // kubelet makes its kubeconfig out of the server and the authorities of the bootstrap one.
    let joined = node.read(BOOTSTRAP).replace(
        "    token: abcdef.0123456789abcdef",
        "    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem",
    );
    node.write(KUBELET_CONF, &joined, 0o600);
    let installed = node.tree();
    let said = node.done(&["install"]);
    assert!(said.contains("nothing to do"), "{said}");
    assert_eq!(node.tree(), installed);

    node.done(&["uninstall"]);
    assert_eq!(node.read(BOOTSTRAP), before);
    let kubelet = node.kubeconfig(KUBELET_CONF);
    assert_eq!(kubelet.server, SERVER);
    assert_eq!(
        kubelet.authority,
        Authority::Data(node.read("etc/kubernetes/pki/ca.crt").into_bytes())
    );
}

#[test]
fn pods_are_served_at_an_address_of_their_own_with_a_certificate_from_the_cluster() {
    let node = Scratch::joined();
    let before = node.tree();
    let said = node.done(&["install", "--pods"]);
    assert!(said.contains("kubectl certificate approve"), "{said}");
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    let pods = "169.254.20.11:51003".parse().unwrap();
    assert_eq!(
        config.listen.addresses,
        ["127.0.0.1:51003".parse().unwrap(), pods]
    );
    let tls = &config.listen.tls;
    assert_eq!(tls.csr.as_ref().unwrap().client, "system:node:edge-1");
    assert!(tls.before.is_some(), "kubelet is served before the approval");
    assert!(config.listen.dummy_interface.is_some() && config.in_cluster.is_some());
    let unit = node.read("etc/systemd/system/edgehold.service");
    assert!(unit.contains("\nCapabilityBoundingSet=CAP_NET_ADMIN\n"), "{unit}");
    assert!(
        node.done(&["install"]).contains("nothing to do"),
        "without the flag nothing is taken away"
    );
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn kube_proxy_on_the_host_is_pointed_here_too() {
    let pki = Pki::new();
    let node = Scratch::joined_to(&pki, SERVER);
    let pair = pki.client(Some("system:kube-proxy"), &[]);
    node.write(
        "etc/kubernetes/pki/kube-proxy.pem",
        &(pair.cert_pem + &pair.key_pem),
        0o600,
    );
    let text = kubelet_conf(&pki, SERVER).replace(
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
        "pki/kube-proxy.pem",
    );
    node.write("etc/kubernetes/kube-proxy.conf", &text, 0o600);
    let before = node.tree();
    node.done(&["install"]);
    assert_eq!(node.kubeconfig("etc/kubernetes/kube-proxy.conf").server, LOCAL);
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    let names: Vec<&str> = config
        .clients
        .iter()
        .map(|client| client.common_name.as_str())
        .collect();
    assert_eq!(names, ["system:node:edge-1", "system:kube-proxy"]);
    assert_eq!(
        config.clients[1].key_file,
        Path::new("/etc/kubernetes/pki/kube-proxy.pem")
    );
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn everything_that_is_in_the_way_is_said_at_once() {
    let node = Scratch::joined();
    let machine = Machine {
        root: false,
        manager: Manager::None,
        port: Port::Taken,
        ..Machine::default()
    };
    let mut options = node.options();
    options.binary = Some("/home/me/edgehold".into());
    node.write("home/me/edgehold", "", 0o755);
    assert_eq!(
        problems(&options, &machine),
        "this needs root; run it with sudo\n\
         this node has no systemd; run edgehold as a static pod instead: examples/deploy\n\
         /home/me/edgehold is where the unit will not see it; copy it: install -m 755 /home/me/edgehold /usr/local/bin/edgehold, and run that one\n\
         another program listens at 127.0.0.1:51003; stop it, or choose another address with --address\n"
    );
    let ours = Machine {
        manager: Manager::Active,
        port: Port::Taken,
        ..Machine::default()
    };
    assert!(
        !install_steps(&node.options(), &ours).is_empty(),
        "its own port is no obstacle"
    );
}

#[test]
fn a_kubeconfig_that_edgehold_could_not_stand_in_for_is_refused() {
    let node = Scratch::joined();
    let good = node.read(KUBELET_CONF);
    for (from, to, said) in [
        (
            "server: https://203.0.113.10:6443",
            "server: http://203.0.113.10:6443",
            "does not start with https://",
        ),
        (
            "server: https://203.0.113.10:6443",
            "server: https://a.example/k8s",
            "has a path",
        ),
        ("current-context: default", "", "has no current-context"),
        (
            "    server: https://2",
            "    insecure-skip-tls-verify: true\n    server: https://2",
            "insecure-skip-tls-verify",
        ),
        (
            "    server: https://2",
            "    tls-server-name: kubernetes\n    server: https://2",
            "tls-server-name kubernetes",
        ),
        (
            "    server: https://2",
            "    proxy-url: socks5://me:hunter2@proxy:1080\n    server: https://2",
            "a proxy-url that begins with socks5://, and edgehold goes through HTTP proxies (http://) only; name an HTTP proxy",
        ),
        (
            "    server: https://2",
            "    proxy-url: https://proxy:3128\n    server: https://2",
            "a proxy-url that begins with https://",
        ),
        ("kind: Config", "kind: [", "is not a kubeconfig"),
    ] {
        node.write(KUBELET_CONF, &good.replacen(from, to, 1), 0o600);
        let err = node.refused(&["install"]);
        assert!(err.contains(said) && !err.contains("hunter2"), "{said}: {err}");
    }
}

#[test]
fn the_proxy_of_a_kubeconfig_becomes_edgeholds_and_its_password_stays_private() {
    let node = Scratch::joined();
    let url = "http://edge:hunt%2Der2@proxy.example:3128";
    let text = node.read(KUBELET_CONF).replacen(
        "    server: https://2",
        &format!("    proxy-url: {url}\n    server: https://2"),
        1,
    );
    node.write(KUBELET_CONF, &text, 0o600);
    let before = node.tree();
    let said = node.done(&["install", "--dry-run"]);
    assert!(!said.contains("hunt"), "{said}");
    node.done(&["install"]);
    assert_eq!(
        node.kubeconfig(KUBELET_CONF).proxy_url,
        None,
        "the way to edgehold leads through no proxy"
    );
    let config = edgehold::config::load(&node.at("etc/edgehold/config.yaml")).unwrap();
    let proxy = config.upstream.proxy.unwrap();
    assert_eq!(proxy.to_string(), "http://proxy.example:3128");
    let credentials = "etc/edgehold/pki/proxy-credentials";
    assert_eq!(node.read(credentials), "edge:hunt-er2");
    assert_eq!(node.mode(credentials), 0o600);
    assert!(!node.read("etc/edgehold/config.yaml").contains("hunt"));
    assert!(node.done(&["install"]).contains("nothing to do"));

    // Changed since: edited back, and not put back.
    let changed = node
        .read(KUBELET_CONF)
        .replace("preferences: {}", "preferences: {colors: true}");
    node.write(KUBELET_CONF, &changed, 0o600);
    let said = node.done(&["uninstall", "--dry-run"]);
    assert!(!said.contains("hunt"), "{said}");
    node.done(&["uninstall"]);
    assert_eq!(node.kubeconfig(KUBELET_CONF).proxy_url.as_deref(), Some(url));
    node.write(KUBELET_CONF, &text, 0o600);
    assert_eq!(node.tree(), before);
}

#[test]
fn clients_that_the_named_authority_did_not_sign_are_noticed_before_anything_is_done() {
    let node = Scratch::joined();
    node.write("etc/kubernetes/pki/ca.crt", Pki::new().ca_pem(), 0o644);
    let err = node.refused(&["install"]);
    assert!(
        err.contains(
            "the certificate of system:node:edge-1 is not by an authority in /etc/kubernetes/pki/ca.crt"
        ),
        "{err}"
    );
    assert!(err.contains("--client-ca-file"), "{err}");
}

#[test]
fn a_node_without_kubelet_is_told_what_is_missing() {
    let node = Scratch::empty(&Pki::new());
    let err = node.refused(&["install"]);
    assert!(
        err.contains(
            "neither /etc/kubernetes/kubelet.conf nor /etc/kubernetes/bootstrap-kubelet.conf is there"
        ),
        "{err}"
    );
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
