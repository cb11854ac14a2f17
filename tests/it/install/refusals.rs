//! What is in the way, and is said before anything is done.

use super::*;

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
            "server: https://a.example/k8s?x",
            "has a query, a fragment or an unusual path",
        ),
        ("current-context: default", "", "has no current-context"),
        (
            "    server: https://2",
            "    insecure-skip-tls-verify: true\n    server: https://2",
            "insecure-skip-tls-verify",
        ),
        (
            "    server: https://2",
            "    proxy-url: socks4://me:hunter2@proxy:1080\n    server: https://2",
            "a proxy-url that begins with socks4://, and edgehold goes through http://, socks5:// and socks5h:// only; name such a proxy",
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
        assert!(!err.contains("cannot be learned"), "no second complaint: {err}");
    }
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
