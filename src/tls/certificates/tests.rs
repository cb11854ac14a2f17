use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::tls::status::CertificateState;
use crate::tls::testing::{Authority, Issued, LeafSpec, days, rename, write};

const NODE: &str = "system:node:edge-1";
/// Long enough that nothing but a file event can be the cause.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(20);

struct Files {
    dir: TempDir,
    ca: Authority,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            ca: Authority::new("ca"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pair_paths(&self, cert: &str, key: &str) -> PairSource {
        PairPaths {
            cert: self.path(cert),
            key: self.path(key),
        }
        .into()
    }

    /// Serving pair in two files, one CA file for both CAs, the node's client pair in one file.
    fn config(&self) -> Config {
        Config {
            serving: self.pair_paths("tls.crt", "tls.key"),
            serving_before: None,
            client_ca: self.path("ca.crt"),
            client_crl: None,
            client_ca_more: None,
            upstream_ca: Some(self.path("ca.crt")),
            upstream_ca_more: None,
            clients: vec![(NODE.to_owned(), self.pair_paths("node.pem", "node.pem"))],
            reload_interval: NEVER,
            retry_interval: NEVER,
        }
    }

    fn retrying(&self) -> Config {
        Config {
            retry_interval: SOON,
            ..self.config()
        }
    }

    fn node(&self) -> Issued {
        self.ca.issue(&LeafSpec::client(NODE))
    }

    fn put(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// As a careful writer does it.
    fn swap(&self, name: &str, text: &str) {
        self.put("new", text);
        rename(&self.path("new"), &self.path(name));
    }

    fn put_all(&self) -> Issued {
        let (serving, node) = (self.ca.issue(&LeafSpec::server(&["edge.test"])), self.node());
        self.put("tls.crt", &serving.cert_pem);
        self.put("tls.key", &serving.key_pem);
        self.put("ca.crt", &self.ca.pem);
        self.put("node.pem", &node.joined());
        node
    }
}

fn fingerprint(issued: &Issued) -> String {
    issued.identity().leaf().fingerprint.clone()
}

fn status(certificates: &Certificates, name: &str) -> CertificateStatus {
    certificates
        .statuses()
        .into_iter()
        .find(|status| status.name == name)
        .unwrap()
}

fn state_of(config: Config) -> (CertificateState, String) {
    let certificates = Certificates::bind(config);
    let status = status(&certificates, NODE);
    assert_eq!(status.fingerprint, None);
    assert!(certificates.client_identity(NODE).unwrap().borrow().is_none());
    (status.state, status.last_error.unwrap())
}

/// Runs the loop beside `test`.
async fn running<T>(certificates: &Arc<Certificates>, test: impl Future<Output = T>) -> T {
    let cancel = CancellationToken::new();
    tokio::select! {
        () = Arc::clone(certificates).run(cancel.clone()) => panic!("the loop ended"),
        result = tokio::time::timeout(DEADLINE, test) => result.expect("within the deadline"),
    }
}

async fn until_leaf(certificates: &Certificates, fingerprint: &str) {
    let mut identity = certificates.client_identity(NODE).unwrap();
    identity
        .wait_for(|value| {
            value
                .as_ref()
                .is_some_and(|value| value.leaf().fingerprint == fingerprint)
        })
        .await
        .unwrap();
}

async fn until_state(certificates: &Certificates, name: &str, state: CertificateState) {
    let mut statuses = certificates.status_changes();
    statuses
        .wait_for(|all| all.iter().any(|one| one.name == name && one.state == state))
        .await
        .unwrap();
}

#[test]
fn everything_is_loaded_by_bind() {
    let files = Files::new();
    let node = files.put_all();
    let certificates = Certificates::bind(files.config());
    assert!(
        certificates
            .statuses()
            .iter()
            .all(|status| status.state == CertificateState::Current)
    );
    assert!(certificates.server_material().borrow().is_some());
    assert!(certificates.upstream_roots().borrow().is_some());
    let identity = certificates.client_identity(NODE).unwrap();
    assert_eq!(
        identity.borrow().as_ref().unwrap().leaf().fingerprint,
        fingerprint(&node)
    );
    assert!(certificates.client_identity("system:kube-proxy").is_none());
    let names: Vec<_> = certificates
        .statuses()
        .into_iter()
        .map(|status| status.name)
        .collect();
    assert_eq!(names, ["serving", "client-ca", "upstream-ca", NODE]);
}

#[test]
fn with_no_file_at_all_it_starts_and_says_absent() {
    let files = Files::new();
    let certificates = Certificates::bind(files.config());
    assert!(
        certificates
            .statuses()
            .iter()
            .all(|status| status.state == CertificateState::Absent)
    );
    assert!(certificates.server_material().borrow().is_none());
}

#[test]
fn a_serving_pair_without_client_ca_serves_nobody() {
    let files = Files::new();
    files.put_all();
    let certificates = Certificates::bind(Config {
        client_ca: files.path("other.crt"),
        client_crl: None,
        ..files.config()
    });
    assert_eq!(status(&certificates, "serving").state, CertificateState::Current);
    assert!(certificates.server_material().borrow().is_none());
}

#[test]
fn each_fault_has_its_state_and_names_the_file() {
    let files = Files::new();
    let (node, other) = (files.node(), files.node());
    let joined = node.joined();
    let key_begins = node.cert_pem.len();
    for (text, expected) in [
        (String::new(), CertificateState::Incomplete),
        ("no PEM at all".to_owned(), CertificateState::Incomplete),
        (node.cert_pem.clone(), CertificateState::Incomplete),
        (node.key_pem.clone(), CertificateState::Incomplete),
        (joined[..100].to_owned(), CertificateState::Damaged),
        (joined[..key_begins + 60].to_owned(), CertificateState::Damaged),
        (joined.replace("MII", "!!!"), CertificateState::Damaged),
        (
            joined.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY----\n"),
            CertificateState::Damaged,
        ),
        (
            format!("{}{}", node.cert_pem, other.key_pem),
            CertificateState::KeyMismatch,
        ),
        (
            files.ca.issue(&LeafSpec::client("system:node:edge-2")).joined(),
            CertificateState::WrongName,
        ),
        (
            files.ca.issue(&LeafSpec::client("")).joined(),
            CertificateState::WrongName,
        ),
    ] {
        files.put("node.pem", &text);
        let (state, error) = state_of(files.config());
        assert_eq!(state, expected, "{error}");
        assert!(error.contains("node.pem"), "{error}");
        let secret = node.key_pem.lines().nth(1).unwrap();
        assert!(!error.contains(secret), "an error never quotes the file");
    }
}

#[test]
fn what_is_no_file_is_unreadable_and_does_not_hang() {
    let files = Files::new();
    std::fs::create_dir(files.path("node.pem")).unwrap();
    assert_eq!(state_of(files.config()).0, CertificateState::Unreadable);
    let fifo = rustix::fs::mknodat(
        rustix::fs::CWD,
        files.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    );
    fifo.unwrap();
    let pipe = vec![(NODE.to_owned(), files.pair_paths("fifo", "fifo"))];
    assert_eq!(
        state_of(Config {
            clients: pipe,
            ..files.config()
        })
        .0,
        CertificateState::Unreadable
    );
    files.put("big", &"x".repeat(5 << 20));
    let big = vec![(NODE.to_owned(), files.pair_paths("big", "big"))];
    assert_eq!(
        state_of(Config {
            clients: big,
            ..files.config()
        })
        .0,
        CertificateState::Unreadable
    );
}

#[test]
fn a_key_text_on_the_begin_line_is_not_logged() {
    let files = Files::new();
    let node = files.node();
    files.put(
        "node.pem",
        &format!("{}{}", node.cert_pem, node.key_pem.replace('\n', "")),
    );
    let (state, error) = state_of(files.config());
    assert_eq!(state, CertificateState::Damaged);
    assert!(!error.contains(node.key_pem.lines().nth(1).unwrap()));
}

#[test]
fn an_expired_pair_is_used_when_there_is_no_better_and_said_to_be() {
    let files = Files::new();
    let expired = files.ca.issue(&LeafSpec::client(NODE).valid(days(-20), days(-1)));
    files.put("node.pem", &expired.joined());
    let certificates = Certificates::bind(files.config());
    assert_eq!(status(&certificates, NODE).state, CertificateState::Expired);
    assert!(certificates.client_identity(NODE).unwrap().borrow().is_some());
}

#[test]
fn a_bundle_is_as_valid_as_its_best_authority() {
    let files = Files::new();
    let old = Authority::valid("old", days(-20), days(-1));
    files.put("ca.crt", &old.pem);
    let certificates = Certificates::bind(files.config());
    assert_eq!(
        status(&certificates, "client-ca").state,
        CertificateState::Expired
    );
    files.put("ca.crt", &format!("{}{}", old.pem, files.ca.pem));
    let certificates = Certificates::bind(files.config());
    assert_eq!(
        status(&certificates, "client-ca").state,
        CertificateState::Current
    );
}

#[test]
fn of_a_name_configured_twice_the_first_pair_counts() {
    let files = Files::new();
    let node = files.put_all();
    files.put("other.pem", &files.node().joined());
    let mut config = files.config();
    config
        .clients
        .push((NODE.to_owned(), files.pair_paths("other.pem", "other.pem")));
    let certificates = Certificates::bind(config);
    assert_eq!(certificates.statuses().len(), 4);
    assert_eq!(status(&certificates, NODE).fingerprint, Some(fingerprint(&node)));
}

#[tokio::test]
async fn a_changed_file_is_noticed_at_once() {
    let files = Files::new();
    files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    running(&certificates, async {
        for _ in 0..4 {
            let next = files.node();
            files.swap("node.pem", &next.joined());
            until_leaf(&certificates, &fingerprint(&next)).await;
        }
        let next = files.node();
        files.put("node.pem", &next.joined());
        until_leaf(&certificates, &fingerprint(&next)).await;
    })
    .await;
}

#[tokio::test]
async fn kubelets_link_is_followed_when_it_is_swapped() {
    let files = Files::new();
    files.put_all();
    std::fs::create_dir(files.path("pki")).unwrap();
    let link = "pki/kubelet-client-current.pem";
    let turn = |number: usize| {
        let next = files.node();
        files.put(&format!("pki/{number}.pem"), &next.joined());
        symlink(format!("{number}.pem"), files.path("link")).unwrap();
        rename(&files.path("link"), &files.path(link));
        fingerprint(&next)
    };
    turn(0);
    let clients = vec![(NODE.to_owned(), files.pair_paths(link, link))];
    let certificates = Arc::new(Certificates::bind(Config {
        clients,
        ..files.config()
    }));
    running(&certificates, async {
        for number in 1..5 {
            until_leaf(&certificates, &turn(number)).await;
        }
    })
    .await;
}

/// As kubelet's atomic writer: files are links through `..data`, which is a link to a directory.
#[tokio::test]
async fn a_secret_volume_is_followed_when_it_is_swapped() {
    let files = Files::new();
    files.put_all();
    let turn = |number: usize| {
        let next = files.node();
        let dir = format!("..{number}");
        std::fs::create_dir(files.path(&dir)).unwrap();
        files.put(&format!("{dir}/tls.crt"), &next.cert_pem);
        files.put(&format!("{dir}/tls.key"), &next.key_pem);
        symlink(&dir, files.path("..data_tmp")).unwrap();
        rename(&files.path("..data_tmp"), &files.path("..data"));
        if number > 0 {
            std::fs::remove_dir_all(files.path(&format!("..{}", number - 1))).unwrap();
        }
        fingerprint(&next)
    };
    turn(0);
    symlink("..data/tls.crt", files.path("volume.crt")).unwrap();
    symlink("..data/tls.key", files.path("volume.key")).unwrap();
    let clients = vec![(NODE.to_owned(), files.pair_paths("volume.crt", "volume.key"))];
    // Between the two reads of one look the volume may be swapped: that is a mismatch, put right by the retry.
    let certificates = Arc::new(Certificates::bind(Config {
        clients,
        ..files.retrying()
    }));
    running(&certificates, async {
        for number in 1..5 {
            until_leaf(&certificates, &turn(number)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_half_written_pair_keeps_the_last_good_one() {
    let files = Files::new();
    let node = files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    let mut identity = certificates.client_identity(NODE).unwrap();
    identity.mark_unchanged();
    running(&certificates, async {
        let next = files.node();
        let text = next.joined();
        files.put("node.pem", &text[..text.len() / 2]);
        until_state(&certificates, NODE, CertificateState::Damaged).await;
        assert!(!identity.has_changed().unwrap());
        assert_eq!(status(&certificates, NODE).fingerprint, Some(fingerprint(&node)));
        files.put("node.pem", &text);
        until_leaf(&certificates, &fingerprint(&next)).await;
        until_state(&certificates, NODE, CertificateState::Current).await;
    })
    .await;
}

#[tokio::test]
async fn a_removed_file_keeps_the_last_good_value() {
    let files = Files::new();
    files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    running(&certificates, async {
        rename(&files.path("ca.crt"), &files.path("gone"));
        until_state(&certificates, "client-ca", CertificateState::Absent).await;
        until_state(&certificates, "upstream-ca", CertificateState::Absent).await;
        assert!(certificates.server_material().borrow().is_some());
        assert!(certificates.upstream_roots().borrow().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_pair_whose_directory_does_not_exist_yet_is_taken_when_it_comes() {
    let files = Files::new();
    let clients = vec![(
        NODE.to_owned(),
        files.pair_paths("pki/deep/node.pem", "pki/deep/node.pem"),
    )];
    let certificates = Arc::new(Certificates::bind(Config {
        clients,
        ..files.config()
    }));
    running(&certificates, async {
        // The loop is running and has seen that it is absent.
        certificates.status_changes().changed().await.unwrap();
        let node = files.node();
        std::fs::create_dir_all(files.path("pki/deep")).unwrap();
        files.put("pki/deep/node.pem", &node.joined());
        until_leaf(&certificates, &fingerprint(&node)).await;
    })
    .await;
}

#[tokio::test]
async fn without_file_events_the_timer_finds_what_appears() {
    let files = Files::new();
    let certificates = Arc::new(Certificates::bind(files.retrying()));
    let test = async {
        certificates.status_changes().changed().await.unwrap();
        let node = files.put_all();
        until_leaf(&certificates, &fingerprint(&node)).await;
        certificates
            .server_material()
            .wait_for(Option::is_some)
            .await
            .unwrap();
        certificates
            .upstream_roots()
            .wait_for(Option::is_some)
            .await
            .unwrap();
    };
    tokio::select! {
        () = certificates.keep_current(FileEvents::deaf()) => panic!("the loop ended"),
        result = tokio::time::timeout(DEADLINE, test) => result.expect("within the deadline"),
    }
}

#[tokio::test]
async fn a_rewritten_file_with_the_same_content_is_no_change() {
    let files = Files::new();
    let node = files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    let mut identity = certificates.client_identity(NODE).unwrap();
    let mut material = certificates.server_material();
    identity.mark_unchanged();
    material.mark_unchanged();
    running(&certificates, async {
        files.swap("node.pem", &format!("# a comment\n{}", node.joined()));
        files.swap("ca.crt", &format!("{}\n", files.ca.pem));
        // The loop has looked at both since: each is followed by a look that fails.
        for name in ["node.pem", "ca.crt"] {
            rename(&files.path(name), &files.path("away"));
        }
        until_state(&certificates, NODE, CertificateState::Absent).await;
        until_state(&certificates, "client-ca", CertificateState::Absent).await;
        assert!(!identity.has_changed().unwrap());
        assert!(!material.has_changed().unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_new_client_ca_publishes_new_server_material() {
    let files = Files::new();
    files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    let mut material = certificates.server_material();
    let before = material.borrow_and_update().clone().unwrap();
    running(&certificates, async {
        files.swap("ca.crt", &Authority::new("successor").pem);
        material.changed().await.unwrap();
        let after = material.borrow_and_update().clone().unwrap();
        assert_ne!(before.clients().fingerprint(), after.clients().fingerprint());
        assert_eq!(before.leaf(), after.leaf());
    })
    .await;
}

#[tokio::test]
async fn the_loop_ends_when_cancelled_and_can_be_run_again() {
    let files = Files::new();
    files.put_all();
    let certificates = Arc::new(Certificates::bind(files.config()));
    let cancel = CancellationToken::new();
    cancel.cancel();
    tokio::time::timeout(DEADLINE, Arc::clone(&certificates).run(cancel))
        .await
        .unwrap();
    running(&certificates, async {
        let next = files.node();
        files.swap("node.pem", &next.joined());
        until_leaf(&certificates, &fingerprint(&next)).await;
    })
    .await;
}

#[test]
fn a_key_is_never_shown() {
    let files = Files::new();
    let node = files.put_all();
    let certificates = Certificates::bind(files.config());
    let shown = format!(
        "{:?} {:?}",
        certificates.client_identity(NODE).unwrap().borrow(),
        certificates.server_material().borrow()
    );
    assert!(shown.contains(&fingerprint(&node)));
    let body: String = node
        .key_pem
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    assert!(!shown.contains(&body) && !shown.contains("PrivateKey"), "{shown}");
}

#[test]
fn paths_are_taken_relative_to_the_working_directory_too() {
    assert!(!files::entries(Path::new("Cargo.toml")).is_empty());
}

#[test]
fn the_loop_can_be_a_task_of_a_threaded_runtime() {
    fn is_send(_: impl Send + 'static) {}
    let certificates = Arc::new(Certificates::bind(Files::new().config()));
    is_send(certificates.run(CancellationToken::new()));
}
