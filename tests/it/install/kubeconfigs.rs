//! Kubeconfigs of every kind, pointed at edgehold and back.

use super::*;

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
    let config = node.config();
    assert_eq!(
        config.clients[0].cert_file,
        Path::new("/etc/edgehold/pki/kubelet.crt")
    );
    assert!(node.done(&["install"]).contains("nothing to do"));
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn of_tokens_from_a_plugin_it_is_said_what_works_and_what_does_not() {
    let pki = Pki::new();
    let node = Scratch::empty(&pki);
    let pair = "    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem";
    let with = kubelet_conf(&pki, SERVER);
    assert!(with.contains(pair), "{with}");
    for (user, plugin) in [
        (
            "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: /usr/bin/aws-iam-authenticator\n      args: [token]",
            "/usr/bin/aws-iam-authenticator",
        ),
        ("    auth-provider:\n      name: oidc", "oidc"),
    ] {
        node.write(KUBELET_CONF, &with.replace(pair, user), 0o600);
        let said = node.done(&["install", "--dry-run"]);
        for part in [
            format!("the tokens that it gets from {plugin} are passed on"),
            format!("shows a token from {plugin} that the cluster has accepted before"),
            "rotateCertificates".to_owned(),
        ] {
            assert!(said.contains(&part), "{part}: {said}");
        }
    }
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
    let config = node.config();
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
    let config = node.config();
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
    let config = node.config();
    let proxy = config.upstream.settings.dial.proxy.unwrap();
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
fn a_server_below_a_path_with_another_name_in_its_certificate_is_taken_over_and_given_back() {
    let node = Scratch::joined();
    let url = "https://rancher.example/k8s/clusters/c-x";
    let text = node.read(KUBELET_CONF);
    let text = text.replacen("https://203.0.113.10:6443", url, 1);
    let text = text.replacen("    server: ", "    tls-server-name: kubernetes\n    server: ", 1);
    node.write(KUBELET_CONF, &text, 0o600);
    let before = node.tree();
    node.done(&["install"]);
    let config = node.config();
    assert_eq!(config.upstream.urls, [url]);
    assert_eq!(config.upstream.settings.servers[0].base, "/k8s/clusters/c-x");
    assert_eq!(
        config.upstream.tls_server_name,
        Some("kubernetes".parse().unwrap())
    );
    let pointed = node.kubeconfig(KUBELET_CONF);
    assert_eq!(
        pointed.tls_server_name, None,
        "edgehold's certificate is for its address"
    );
    assert!(node.done(&["install"]).contains("nothing to do"));
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);

    // Without its backup the configuration knows.
    node.done(&["install"]);
    fs::remove_file(node.at("etc/kubernetes/kubelet.conf.edgehold-backup")).unwrap();
    node.done(&["uninstall"]);
    let back = node.kubeconfig(KUBELET_CONF);
    assert_eq!(
        (&*back.server, back.tls_server_name.as_deref()),
        (url, Some("kubernetes"))
    );
}
