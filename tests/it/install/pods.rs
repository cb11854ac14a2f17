//! `--pods`, and certificates from the cluster.

use edgehold::config::IssuerCredential;

use super::*;

#[test]
fn pods_are_served_at_an_address_of_their_own_with_a_certificate_from_the_cluster() {
    let node = Scratch::joined();
    let before = node.tree();
    let said = node.done(&["install", "--pods"]);
    assert!(
        said.contains("edgehold approve --address 127.0.0.1 --address 169.254.20.11 NAME, or kubectl certificate approve NAME"),
        "{said}"
    );
    let config = node.config();
    let pods = "169.254.20.11:51003".parse().unwrap();
    assert_eq!(
        config.listen.addresses,
        ["127.0.0.1:51003".parse().unwrap(), pods]
    );
    let tls = &config.listen.tls;
    assert_eq!(tls.csr.as_ref().unwrap().client, "system:node:edge-1");
    assert!(tls.before.is_some(), "kubelet is served before the approval");
    assert!(config.listen.dummy_interface.is_some());
    let reader = config.offline.issuer.credential.as_ref();
    assert_eq!(
        reader,
        Some(&IssuerCredential::Client("system:node:edge-1".into()))
    );
    let in_cluster = config.in_cluster.unwrap();
    assert_eq!(in_cluster.service_for, ["system:node:edge-1"]);
    assert_eq!(
        in_cluster.endpoints_for,
        ["system:serviceaccount:kube-system:kube-proxy"],
        "kubeadm's, once somebody points it here"
    );
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
fn the_serving_certificate_alone_may_come_from_the_cluster() {
    let node = Scratch::joined();
    let before = node.tree();
    let said = node.done(&["install", "--serving-certificate", "csr"]);
    assert!(said.contains("waits for an approval"), "{said}");
    let config = node.config();
    let tls = &config.listen.tls;
    assert_eq!(tls.csr.as_ref().unwrap().client, "system:node:edge-1");
    assert!(tls.before.is_some(), "kubelet is served before the approval");
    assert!(config.listen.dummy_interface.is_none() && config.in_cluster.is_none());
    let unit = node.read("etc/systemd/system/edgehold.service");
    assert!(unit.contains("\nCapabilityBoundingSet=\n"), "{unit}");
    node.done(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn pods_may_come_later_and_stay_when_they_are_not_asked_for_again() {
    let node = Scratch::joined();
    node.done(&["install", "--pods"]);
    let with_pods = node.tree();
    node.done(&["uninstall"]);
    node.done(&["install"]);
    node.done(&["install", "--serving-certificate", "csr"]);
    assert!(node.config().listen.tls.csr.is_some());
    assert!(
        node.done(&["install"]).contains("nothing to do"),
        "the request stays"
    );
    node.done(&["install", "--pods"]);
    let names = |tree: &node::Tree| {
        tree.0
            .keys()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&node.tree()), names(&with_pods));
    assert!(node.config().in_cluster.is_some());
    assert!(node.done(&["install"]).contains("nothing to do"), "pods stay");
    let said = node.done(&["install", "--pods", "169.254.30.10"]);
    assert!(
        said.contains("kubelet learns where pods are served when it starts"),
        "{said}"
    );
    let address = "169.254.30.10:51003".parse().unwrap();
    assert_eq!(node.config().in_cluster.unwrap().addresses, [address]);

    // Not over what somebody has changed.
    node.done(&["uninstall"]);
    node.done(&["install"]);
    let by_hand = node.read("etc/edgehold/config.yaml") + "log: {level: debug}\n";
    node.write("etc/edgehold/config.yaml", &by_hand, 0o644);
    let said = node.refused(&["install", "--pods"]);
    assert!(
        said.contains("was changed by hand and has another address for pods, or none; add it there"),
        "{said}"
    );
    let said = node.refused(&["install", "--serving-certificate", "csr"]);
    assert!(
        said.contains("has no certificate from the cluster; add listen.tls.csr"),
        "{said}"
    );
    node.done(&["install", "--pods", "--replace-config"]);
    assert!(node.config().in_cluster.is_some());
}

#[test]
fn the_interface_for_pods_goes_with_edgehold_and_what_runs_is_said() {
    let node = Scratch::joined();
    let (mut options, mut machine) = (node.options(), Machine::default());
    options.pods = Some("169.254.20.11".parse().unwrap());
    machine.install(&options, ALL);
    assert_eq!(
        machine.told.get(3..),
        Some(
            [
                "await 127.0.0.1:51003",
                "await 169.254.20.11:51003",
                "restart kubelet.service"
            ]
            .map(str::to_owned)
            .as_slice()
        ),
        "kubelet tells nobody of an address that does not answer"
    );
    machine.told.clear();
    machine.manager = Manager::Active;
    let facts = Facts::gather(&options, &machine).unwrap();
    let plan = edgehold::setup::uninstall(&options, &facts, Data::Keep).unwrap();
    assert!(
        plan.notes.iter().any(|note| note
            == "pods that run have 169.254.20.11:51003 as their apiserver until they are recreated"),
        "{:?}",
        plan.notes
    );
    machine.carry_out(&plan.steps, ALL, &options);
    assert_eq!(
        machine.told,
        [
            "restart kubelet.service",
            "disable --now edgehold.service",
            "daemon-reload",
            "remove edgehold0 [169.254.20.11]"
        ]
    );
}
