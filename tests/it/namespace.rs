//! Tests with a network of their own: this binary starts one of its tests again in a network namespace, so that nothing of
//! the machine is touched. Needs root, unshare(1) and ip(8); without them the test is skipped, and says so.

use std::process::Command;

/// Runs ip(8) here.
pub fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split(' ')).output();
    done.is_ok_and(|done| done.status.success())
}

/// One test of this binary, `module::name`, again, started by `starter`.
pub fn again(test: &str, starter: &[&str]) -> Command {
    let mut command = Command::new(starter[0]);
    command
        .args(&starter[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"]);
    command
}

/// Says that a test is skipped.
pub fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// Runs a test again in a network of its own, with this variable set, and demands that it passes there.
pub fn run_apart(test: &str, variable: &str) {
    let probe = Command::new("unshare").args(["--net", "ip", "link"]).output();
    if !probe.is_ok_and(|done| done.status.success()) {
        return skip(
            test,
            "no network namespace without root, unshare(1) and ip(8) of iproute2",
        );
    }
    let script = "ip link set lo up; exec \"$0\" \"$@\"";
    let done = again(test, &["unshare", "--net", "sh", "-c", script])
        .env(variable, "1")
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
    text.lines()
        .filter(|line| line.starts_with("SKIPPED"))
        .for_each(|line| eprintln!("{line}"));
}

/// Another network beside that of this process; gone when dropped.
pub struct Network(String);

impl Network {
    /// One that these lines of ip(8) connect with ours, from its name on; `None` if one of them does not work here.
    pub fn build(prefix: &str, lines: impl FnOnce(&str) -> Vec<String>) -> Option<Self> {
        let network = Self(format!("{prefix}-{}", std::process::id()));
        let name = network.name();
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("-n {name} link set lo up"))
            && lines(name).iter().all(|line| ip(line));
        made.then_some(network)
    }

    /// As ip(8) knows it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}
