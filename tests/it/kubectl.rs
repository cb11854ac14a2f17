//! kubectl, if there is one on PATH: tables, JSON, raw paths and discovery, online and offline.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{DEADLINE, Node, config_map, names};

/// kubectl with a kubeconfig for one node; `None`, and a line that says so, where there is no kubectl.
struct Kubectl {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Kubectl {
    async fn of(node: &Node) -> Option<Self> {
        let found = Command::new("kubectl").arg("help").output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: there is no kubectl on PATH");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        let file = |name: &str| node.dir.path().join(name).display().to_string();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: edge\nclusters:\n- name: edge\n  cluster: {{server: \
             \"https://{}\", certificate-authority: {}}}\nusers:\n- name: kubelet\n  user: {{client-certificate: {}, \
             client-key: {}}}\ncontexts:\n- name: edge\n  context: {{cluster: edge, user: kubelet}}\n",
            node.running().addresses()[0],
            file("ca.crt"),
            file("kubelet.crt"),
            file("kubelet.key"),
        );
        #[allow(clippy::disallowed_methods)] // a test's own file
        std::fs::write(&config, text).unwrap();
        Some(Self { dir, config })
    }

    /// Runs a command with a discovery cache of its own, so that every answer comes from the server.
    async fn run(&self, line: &str) -> Output {
        let cache = tempfile::tempdir_in(self.dir.path()).unwrap();
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .arg("--cache-dir")
            .arg(cache.path())
            .arg(format!("--request-timeout={}s", DEADLINE.as_secs()))
            .args(line.split(' '))
            .env("HOME", self.dir.path());
        let running = tokio::task::spawn_blocking(move || command.output().unwrap());
        tokio::time::timeout(3 * DEADLINE, running)
            .await
            .expect("kubectl ends")
            .unwrap()
    }

    /// Standard output of a command that succeeds.
    async fn stdout(&self, line: &str) -> String {
        let output = self.run(line).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

const COMMANDS: [&str; 7] = [
    "get configmaps -n shop",
    "get configmaps -n shop -o json",
    "get configmaps -A -o name",
    "get configmap a -n shop -o yaml",
    "get --raw /version",
    "api-resources",
    "get --raw /openapi/v3",
];

/// The same text without a trailing AGE column, which is computed when it is printed.
fn ageless(text: &str) -> String {
    let line = |line: &str| match line.trim_end().rsplit_once(' ') {
        Some((rest, age)) if age.ends_with('s') || age.ends_with('m') => rest.trim_end().to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_says_the_same_online_and_offline() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.put(config_map("shop", "b", "2"));
    let Some(kubectl) = Kubectl::of(&node).await else {
        return;
    };
    let mut online = Vec::new();
    for command in COMMANDS {
        online.push(kubectl.stdout(command).await);
    }
    assert!(
        online[0].contains("NAME") && online[0].contains("a  "),
        "{}",
        online[0]
    );
    let list: Value = serde_json::from_str(&online[1]).unwrap();
    assert_eq!(names(&list), ["a", "b"]);
    assert!(online[5].contains("configmaps"), "{}", online[5]);

    node.cut().await;
    for (command, online) in COMMANDS.iter().zip(&online) {
        assert_eq!(
            ageless(&kubectl.stdout(command).await),
            ageless(online),
            "kubectl {command}"
        );
    }
    // A reboot without a link changes nothing but the address.
    node.restart().await;
    let kubectl = Kubectl::of(&node).await.unwrap();
    for (command, online) in COMMANDS.iter().zip(&online) {
        assert_eq!(
            ageless(&kubectl.stdout(command).await),
            ageless(online),
            "kubectl {command}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_how_old_an_offline_answer_is() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let Some(kubectl) = Kubectl::of(&node).await else {
        return;
    };
    let online = kubectl.run("get configmaps -n shop").await;
    assert_eq!(String::from_utf8_lossy(&online.stderr), "");
    node.cut().await;
    let offline = kubectl.run("get configmaps -n shop").await;
    let warning = String::from_utf8_lossy(&offline.stderr).into_owned();
    assert!(offline.status.success(), "{warning}");
    assert!(
        warning.contains("Warning: the cloud cannot be reached (")
            && warning.contains(": connection refused, since ")
            && warning.contains("): this is what edgehold knew ")
            && warning.contains("s ago (EH001)"),
        "{warning}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_the_truth_about_what_is_unknown_or_cannot_be_done() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let Some(kubectl) = Kubectl::of(&node).await else {
        return;
    };
    kubectl.stdout("get configmaps -n shop -o name").await;
    node.cut().await;
    for (command, says) in [
        (
            "get secrets -n shop",
            "this client has not read it before, or it was not kept (EH001)",
        ),
        ("delete configmap a -n shop", "nothing was changed (EH001)"),
        ("get configmap none -n shop", "NotFound"),
    ] {
        let output = kubectl.run(command).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {command} succeeded");
        assert!(error.contains(says), "kubectl {command}: {error}");
    }
    assert!(node.api.get("ConfigMap", "shop", "a").is_some());
}
