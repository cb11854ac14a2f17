//! `edgehold approve`: what a person with a kubeconfig, and the loop in the cluster, approve of what nodes ask for.

use std::path::{Path, PathBuf};

use apiserver_standin::{Client, Options, Pair, Rbac, Rule, Standin, Subject};
use assert_cmd::Command;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use crate::support::{eventually, write_secret};

const KIND: &str = "CertificateSigningRequest";
const NODE: &str = "system:node:edge-1";
const HONEST: [&str; 4] = [
    "kubernetes",
    "kubernetes.default.svc",
    "10.96.0.1",
    "169.254.20.11",
];

struct Cluster {
    api: Standin,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let api = Standin::start(Options::default());
        api.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}}));
        api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}}));
        let dir = tempfile::tempdir().unwrap();
        Self { api, dir }
    }

    /// A request for these names, as the apiserver keeps it.
    fn ask(&self, name: &str, user: &str, names: &[&str]) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, user);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        self.api.put(json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": KIND, "metadata": {"name": name},
            "spec": {
                "request": STANDARD.encode(request.pem().unwrap()),
                "signerName": "kubernetes.io/kubelet-serving",
                "usages": ["digital signature", "server auth"],
                "username": user, "groups": ["system:nodes", "system:authenticated"],
            },
        }));
    }

    fn conditions(&self, name: &str) -> Value {
        self.api.get(KIND, "", name).unwrap()["status"]["conditions"].clone()
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        let path = self.dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"https://{}\", certificate-authority-data: {}}}}}]\n\
             users: [{{name: u, user: {user}}}]\n",
            self.api.addr(),
            STANDARD.encode(self.api.ca_pem()),
        );
        write_secret(&path, &text);
        path
    }

    fn administrator(&self) -> PathBuf {
        let Pair { cert_pem, key_pem } = self.api.pki().client(Some("administrator"), &["system:masters"]);
        let (cert, key) = (STANDARD.encode(cert_pem), STANDARD.encode(key_pem));
        self.kubeconfig(&format!(
            "{{client-certificate-data: {cert}, client-key-data: {key}}}"
        ))
    }
}

/// Exit code, answers and problems.
fn approve(kubeconfig: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::cargo_bin("edgehold")
        .unwrap()
        .arg("approve")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_approved_and_nothing_else() {
    let cluster = Cluster::start();
    let kubeconfig = cluster.administrator();
    cluster.ask("good", NODE, &HONEST);
    cluster.ask("bad", NODE, &["kubernetes\nDNS:evil", "10.96.0.1"]);
    let local = ["--address", "169.254.20.11"];

    let (code, _, err) = approve(&kubeconfig, &["good"]);
    assert_eq!(code, Some(1));
    assert_eq!(err, "good: not approved: it asks for \"169.254.20.11\"\n");

    let (code, out, _) = approve(&kubeconfig, &[&local[..], &["--dry-run", "good"]].concat());
    assert_eq!(code, Some(0));
    assert_eq!(
        out,
        "good: would be approved: edge-1, for kubernetes, kubernetes.default.svc, 10.96.0.1, 169.254.20.11\n"
    );
    assert_eq!(
        cluster.conditions("good"),
        Value::Null,
        "a dry run decides nothing"
    );

    let (code, out, err) = approve(&kubeconfig, &[&local[..], &["bad", "good", "none"]].concat());
    assert_eq!(code, Some(1));
    assert!(out.starts_with("good: approved: edge-1, for "), "{out}");
    let problems: Vec<&str> = err.lines().collect();
    assert_eq!(problems.len(), 2, "{err}");
    assert_eq!(
        problems[0],
        "bad: not approved: it asks for \"kubernetes\\nDNS:evil\""
    );
    assert!(problems[1].starts_with("none: not approved: not found"), "{err}");
    assert_eq!(cluster.conditions("good")[0]["type"], "Approved");
    assert_eq!(cluster.conditions("bad"), Value::Null);

    let (_, _, err) = approve(&kubeconfig, &[&local[..], &["good"]].concat());
    assert_eq!(err, "good: not approved: already decided: \"Approved\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_those_of_the_kubeconfig_token_or_certificate() {
    let cluster = Cluster::start();
    cluster.ask("good", NODE, &HONEST[..2]);
    let token = cluster.api.service_account_token("edgehold", "approver");
    let user = Subject::User("system:serviceaccount:edgehold:approver".into());
    let reads = Rule::allow(
        user.clone(),
        &["get"],
        &["certificatesigningrequests", "services"],
    );
    cluster.api.set_rbac(Rbac::deny_all().with(reads.clone()));
    let file = cluster.dir.path().join("token");
    write_secret(&file, &format!("{token}\n"));
    for shown in [
        format!("{{token: {token}}}"),
        format!("{{tokenFile: {}}}", file.display()),
    ] {
        let kubeconfig = cluster.kubeconfig(&shown);
        let (code, out, err) = approve(&kubeconfig, &["--dry-run", "good"]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.starts_with("good: would be approved"), "{out}");
        let (code, _, err) = approve(&kubeconfig, &["good"]);
        assert_eq!(code, Some(1));
        assert!(err.starts_with("good: not approved: 403"), "{err}");
    }
    for (user, why) in [
        ("{}", "neither a certificate nor a token"),
        ("{exec: {command: x}}", "plugins are not run"),
    ] {
        let (code, _, err) = approve(&cluster.kubeconfig(user), &["good"]);
        assert_eq!(code, Some(64));
        assert!(err.contains(why), "{err}");
    }
}

/// The loop in the cluster, until it is dropped.
struct Loop(std::process::Child);

impl Loop {
    fn start(kubeconfig: &Path) -> Self {
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_edgehold"))
            .args(["approve", "--watch", "--namespace", "edgehold"])
            .env("KUBECONFIG", kubeconfig)
            .stderr(std::process::Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Loop {
    /// As a kubelet does it; its end is a good one.
    fn terminate(&mut self) {
        let asked = std::process::Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status();
        assert!(asked.unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loop_approves_what_it_can_prove_and_says_why_not() {
    let cluster = Cluster::start();
    cluster.ask("edgehold-serving-edge-1-good", NODE, &HONEST);
    cluster.ask(
        "edgehold-serving-edge-1-evil",
        NODE,
        &["kubernetes", "203.0.113.9"],
    );
    cluster.ask("edgehold-serving-edge-9-gone", "system:node:edge-9", &HONEST);
    cluster.ask("csr-of-kubelet", NODE, &HONEST);
    let kubeconfig = cluster.administrator();
    let mut loops = [Loop::start(&kubeconfig), Loop::start(&kubeconfig)];
    let is_approved = |name: &str| cluster.conditions(name)[0]["type"] == "Approved";
    eventually("it is approved", || async {
        is_approved("edgehold-serving-edge-1-good")
    })
    .await;
    let pair = cluster
        .api
        .pki()
        .client(Some("administrator"), &["system:masters"]);
    let administrator = Client::new(cluster.api.addr(), cluster.api.ca_pem(), Some(&pair));
    for why in [
        "it asks for \"203.0.113.9\"",
        "the cluster has no node \"edge-9\"",
    ] {
        eventually(why, || async {
            let events = administrator
                .get("/apis/events.k8s.io/v1/namespaces/default/events")
                .await
                .json();
            let mut events = events["items"].as_array().into_iter().flatten();
            events.any(|event| event["note"].as_str().is_some_and(|note| note.ends_with(why)))
        })
        .await;
    }
    for left in [
        "edgehold-serving-edge-1-evil",
        "edgehold-serving-edge-9-gone",
        "csr-of-kubelet",
    ] {
        assert_eq!(cluster.conditions(left), Value::Null, "{left}");
    }
    let lease = cluster.api.get("Lease", "edgehold", "edgehold-approver").unwrap();
    assert_eq!(
        lease["spec"]["leaseTransitions"], 0,
        "one of the two leads: {lease}"
    );
    let holder = || {
        let lease = cluster.api.get("Lease", "edgehold", "edgehold-approver").unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    };
    let led = holder();
    for one in &mut loops {
        one.terminate();
    }
    assert!(!led.is_empty());
    assert_eq!(holder(), "", "it is given back at a stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_of_kubeconfig_are_one_as_for_kubectl() {
    let cluster = Cluster::start();
    cluster.ask("good", NODE, &HONEST[..2]);
    let whole = cluster.administrator();
    let file = |name: &str, text: &str| {
        let path = cluster.dir.path().join(name);
        write_secret(&path, text);
        path
    };
    let empty = file(
        "empty",
        "apiVersion: v1\nkind: Config\nclusters: null\ncontexts: null\nusers: null\ncurrent-context: \"\"\n",
    );
    let user = file("user", "users: [{name: u, user: {}}]\n");
    let broken = file("broken", "users: {\n");
    let missing = cluster.dir.path().join("missing");
    let listed = |files: &[&PathBuf]| PathBuf::from(std::env::join_paths(files).unwrap());
    let (code, _, err) = approve(
        &listed(&[&missing, &empty, &whole, &user]),
        &["--dry-run", "good"],
    );
    assert_eq!(code, Some(0), "{err}");
    for (files, why) in [
        (vec![&user, &whole], "neither a certificate nor a token"),
        (vec![&whole, &broken], "broken: is not a kubeconfig"),
        (vec![&empty, &user], "has no current-context"),
        (vec![&missing], "missing: No such file"),
    ] {
        let (code, _, err) = approve(&listed(&files), &["--dry-run", "good"]);
        assert_eq!(code, Some(64), "{err}");
        assert!(err.contains(why), "{err}");
    }
}
