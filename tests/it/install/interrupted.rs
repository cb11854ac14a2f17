//! Installs and uninstalls that are broken off, and steps that fail.

use super::*;

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
fn at_each_moment_of_an_install_kubelet_has_a_whole_kubeconfig_and_the_way_is_open_on_and_back() {
    let node = Scratch::joined();
    let count = install_steps(&node.options(), &Machine::default()).len();
    assert!(count > 10, "{count}");
    for killed_after in 0..=count {
        for goes_back in [false, true] {
            let node = Scratch::joined();
            let (options, mut machine) = (node.options(), Machine::default());
            let (before, kubelet_conf) = (node.tree(), node.read(KUBELET_CONF));
            machine.install(&options, killed_after);
            let points_here = node.kubeconfig(KUBELET_CONF).server == LOCAL;
            if points_here {
                assert!(
                    machine.told.contains(&"await 127.0.0.1:51003".to_owned()),
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
                machine.install(&options, count);
                machine.manager = Manager::Active;
                assert_eq!(
                    install_steps(&options, &machine),
                    [],
                    "after {killed_after} steps"
                );
                assert_eq!(node.kubeconfig(KUBELET_CONF).server, LOCAL);
            }
            machine.uninstall(&options, ALL);
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
            machine.install(&options, ALL);
            machine.uninstall(&options, killed_after);
            if goes_back {
                machine.install(&options, ALL);
                assert_eq!(node.kubeconfig(KUBELET_CONF).server, LOCAL);
            }
            machine.uninstall(&options, ALL);
            assert_eq!(node.tree(), before, "after {killed_after} steps");
        }
    }
}

#[test]
fn edgehold_is_started_and_seen_to_serve_before_any_kubeconfig_names_it() {
    let node = Scratch::joined();
    let (options, mut machine) = (node.options(), Machine::default());
    let steps = install_steps(&options, &machine);
    machine.carry_out(&steps, ALL, &options);
    assert_eq!(
        machine.told,
        [
            "daemon-reload",
            "enable edgehold.service",
            "restart edgehold.service",
            "await 127.0.0.1:51003",
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
        "wait until edgehold serves at 127.0.0.1:51003: connection refused; journalctl -u edgehold says why"
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
