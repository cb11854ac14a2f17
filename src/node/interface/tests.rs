//! The keeper against a real kernel, in a network namespace of its own: needs root, and skips visibly without.

use std::process::Command;

use super::*;

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "EDGEHOLD_TEST_NAMESPACE";
const NAME: &str = "edgehold0";
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs the test `name` of this binary again, in a new network namespace; `prefix` comes before its command line.
/// `false` if this process is the inner one and must do the work.
fn is_outer(name: &str, prefix: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    if !Command::new("unshare")
        .args(["--net", "true"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        eprintln!("SKIPPED {name}: no network namespace without root and unshare(1)");
        return true;
    }
    let done = Command::new("unshare")
        .arg("--net")
        .args(prefix)
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("node::interface::tests::{name}"),
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
    text.lines()
        .filter(|line| line.starts_with("SKIPPED"))
        .for_each(|line| eprintln!("{line}"));
    true
}

fn ip(arguments: &str) -> Result<String, String> {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// The kinds that this kernel can make, of those that hold addresses and need nothing else.
fn kind() -> Option<&'static str> {
    let found = [DUMMY, "ifb"].into_iter().find(|kind| {
        let made = ip(&format!("link add probe0 type {kind}")).is_ok();
        made && ip("link del probe0").is_ok()
    });
    if found.is_none() {
        eprintln!("SKIPPED: the kernel has neither dummy nor ifb interfaces");
    }
    found
}

fn config(kind: &'static str) -> InterfaceConfig {
    InterfaceConfig {
        name: NAME.to_owned(),
        addresses: ["169.254.20.11", "fd00::11"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        kind,
    }
}

async fn wait(interface: &Interface, holds: impl Fn(&InterfaceState) -> bool) {
    let mut state = interface.state();
    let reached = tokio::time::timeout(DEADLINE, state.wait_for(holds)).await;
    assert!(reached.is_ok(), "stayed {:?}", *interface.state.borrow());
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let trying = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = tokio::time::timeout(DEADLINE, trying).await;
    assert!(reached.is_ok(), "never: {what}: {:?}", ip("addr"));
}

fn is_complete() -> bool {
    let shown = ip(&format!("addr show dev {NAME}")).unwrap_or_default();
    let parts = ["169.254.20.11/32", "fd00::11/128", ",UP"];
    parts.iter().all(|part| shown.contains(part))
}

#[tokio::test]
async fn an_interface_is_made_and_made_again_whatever_is_taken_away() {
    if is_outer("an_interface_is_made_and_made_again_whatever_is_taken_away", &[]) {
        return;
    }
    let Some(kind) = kind() else { return };
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    let interface = Interface::spawn(config(kind), &mut registry, &tasks);
    wait(&interface, |state| *state == InterfaceState::Ready).await;
    assert!(is_complete(), "{:?}", ip("addr"));
    assert_eq!(interface.ready.get(), 1);

    for damage in [
        format!("addr del 169.254.20.11/32 dev {NAME}"),
        format!("addr del fd00::11/128 dev {NAME}"),
        format!("link set {NAME} down"),
        format!("link del {NAME}"),
    ] {
        ip(&damage).unwrap();
        eventually(&damage, is_complete).await;
    }

    // Somebody else's address stays, and with it the interface.
    ip(&format!("addr add 169.254.20.10/32 dev {NAME}")).unwrap();
    tasks.stop();
    interface.remove(&tasks).await;
    let shown = ip(&format!("addr show dev {NAME}")).unwrap();
    assert!(
        shown.contains("169.254.20.10/32") && !shown.contains("169.254.20.11"),
        "{shown}"
    );
    ip(&format!("addr del 169.254.20.10/32 dev {NAME}")).unwrap();
    interface.remove(&tasks).await;
    assert!(ip(&format!("link show {NAME}")).is_err());
    tasks.wait().await;
}

#[tokio::test]
async fn an_interface_of_another_kind_stays_as_it_is_until_it_goes() {
    if is_outer("an_interface_of_another_kind_stays_as_it_is_until_it_goes", &[]) {
        return;
    }
    let Some(kind) = kind() else { return };
    ip(&format!("link add {NAME} type bridge")).unwrap();
    let before = ip(&format!("-details addr show dev {NAME}")).unwrap();
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    let interface = Interface::spawn(config(kind), &mut registry, &tasks);
    let bridge = Problem::OtherKind {
        kind: Some("bridge".to_owned()),
    };
    wait(&interface, |state| {
        *state == InterfaceState::Failed(bridge.clone())
    })
    .await;
    interface.remove(&tasks).await;
    assert_eq!(ip(&format!("-details addr show dev {NAME}")).unwrap(), before);

    ip(&format!("link del {NAME}")).unwrap();
    wait(&interface, |state| *state == InterfaceState::Ready).await;
    tasks.stop();
    tasks.wait().await;
    assert!(is_complete(), "it is left when edgehold ends");
}

#[tokio::test]
async fn without_the_capability_it_says_so_and_takes_what_another_made() {
    let name = "without_the_capability_it_says_so_and_takes_what_another_made";
    let script = "ip link add edgehold0 type dummy 2>/dev/null || ip link add edgehold0 type ifb; \
                  exec setpriv --bounding-set -net_admin --inh-caps -net_admin \"$0\" \"$@\"";
    if is_outer(name, &["sh", "-c", script]) {
        return;
    }
    let shown = ip(&format!("-details link show {NAME}")).unwrap_or_default();
    let Some(kind) = [DUMMY, "ifb"].into_iter().find(|kind| shown.contains(kind)) else {
        eprintln!("SKIPPED: the kernel has neither dummy nor ifb interfaces");
        return;
    };
    let (tasks, mut registry) = (Tasks::new(), Registry::default());
    // The addresses are missing and cannot be added.
    let interface = Interface::spawn(config(kind), &mut registry, &tasks);
    wait(&interface, |state| {
        *state == InterfaceState::Failed(Problem::NotPermitted)
    })
    .await;
    assert!(Problem::NotPermitted.to_string().contains("CAP_NET_ADMIN"));
    assert_eq!(interface.ready.get(), 0);
    tasks.stop();
    tasks.wait().await;
}
