//! `edgehold check` on a node: what is wrong with the certificates that are there and with the way to the
//! servers, before a client finds out.
#![allow(clippy::disallowed_methods)] // files of a node are written here

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use apiserver_standin::{
    Existing, Fault, Options, Pair, Pki, Rbac, Rule, Standin, Subject, Validity, secrets,
};
use edgehold::cli::{self, Exit};
use tokio::io::AsyncWriteExt as _;

/// The common name of the kubelet of every node here.
const KUBELET: &str = "system:node:edge-1";

/// A node's files, right in every way.
struct Files {
    dir: tempfile::TempDir,
    pki: Pki,
    /// To listen on; whichever is free, unless a test is about it.
    port: u16,
}

impl Files {
    fn of(pki: &Pki) -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki.server(&["127.0.0.2"]).write_to(dir.path(), "server");
        pki.write_ca(dir.path(), "ca");
        let files = Self {
            dir,
            pki: pki.clone(),
            port: 0,
        };
        kubelet(files.path(), &pki.client(Some(KUBELET), &["system:nodes"]));
        files
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What `check` answers, with the paths shortened.
    fn check(&self, servers: &[String], options: &[&str]) -> (Exit, Vec<String>) {
        let at = self.path().display().to_string();
        let port = self.port;
        let text = format!(
            "apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: [\"127.0.0.1:{port}\", \"127.0.0.2:{port}\"]
  tls: {{certFile: {at}/server.crt, keyFile: {at}/server.key, clientCAFile: {at}/ca.crt}}
upstream: {{servers: {servers:?}, caFile: {at}/ca.crt, connectTimeout: 4s, probe: {{timeout: 4s}}}}
admin: {{address: \"unix:{at}/admin.sock\"}}
cache: {{path: {at}/cache}}
clients:
  - {{commonName: \"{KUBELET}\", certFile: {at}/kubelet.pem, keyFile: {at}/kubelet.pem}}
"
        );
        let text = if self.path().join("csr").exists() {
            let with = format!("tls: {{csr: {{client: \"{KUBELET}\", directory: {at}/serving}}, ");
            text.replace("tls: {certFile", &format!("{with}certFile"))
        } else {
            text
        };
        let more = fs::read_to_string(self.path().join("more.yaml")).unwrap_or_default();
        let text = text + &more;
        let text = match fs::read_to_string(self.path().join("interfaces")) {
            Ok(names) => text.replace("upstream: {", &format!("upstream: {{interfaces: {names}, ")),
            Err(_) => text,
        };
        let text = if self.path().join("clients.crl").exists() {
            let authority = format!("clientCAFile: {at}/ca.crt");
            text.replace(
                &authority,
                &format!("{authority}, clientCRLFile: {at}/clients.crl"),
            )
        } else {
            text
        };
        let config = self.path().join("config.yaml");
        fs::write(&config, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut line: Vec<OsString> = vec!["edgehold".into(), "check".into()];
        line.extend(["--config".into(), config.into()]);
        line.extend(options.iter().map(OsString::from));
        // It has a runtime of its own, which a thread of a test's cannot have.
        let exit = std::thread::scope(|scope| {
            let running = scope.spawn(|| cli::execute(line, |_| unreachable!(), &mut out, &mut err));
            running.join().unwrap()
        });
        secrets::search("what a command printed", &[out.as_slice(), &err].concat());
        let out = String::from_utf8(out).unwrap().replace(&at, "");
        assert_eq!(err.len(), 0, "{out}");
        let head = match out.matches("\nproblem: ").count() {
            0 => "/config.yaml: ok\n".to_owned(),
            1 => "/config.yaml: 1 problem\n".to_owned(),
            count => format!("/config.yaml: {count} problems\n"),
        };
        assert!(out.starts_with(&head), "{out}");
        assert_eq!(exit == Exit::Ok, head.contains("ok"), "{out}");
        assert!(!out.contains("PRIVATE"), "{out}");
        (exit, out.lines().map(str::to_owned).collect())
    }

    /// What is wrong with the certificates.
    fn problems(&self) -> Vec<String> {
        // Nobody is there: asking would take its time and say so.
        let (exit, lines) = self.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
        let problems = problems(&lines);
        let expected = if problems.is_empty() {
            Exit::Ok
        } else {
            Exit::Certificate
        };
        assert_eq!(exit, expected, "{lines:?}");
        problems
    }

    /// As [`Files::check`] with the servers asked, which are in this test's own runtime.
    fn ask(&self, servers: &[String]) -> (Exit, Vec<String>) {
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| scope.spawn(|| self.check(servers, &[])).join().unwrap())
        })
    }
}

fn problems(lines: &[String]) -> Vec<String> {
    let problems = lines.iter().filter_map(|line| line.strip_prefix("problem: "));
    problems.map(str::to_owned).collect()
}

fn wrong(replace: impl FnOnce(&Pki, &Path)) -> Vec<String> {
    let files = Files::of(&Pki::new());
    replace(&files.pki, files.path());
    files.problems()
}

fn one(problems: &[String]) -> &str {
    let [problem] = problems else {
        panic!("one problem: {problems:?}")
    };
    problem
}

fn kubelet(dir: &Path, pair: &Pair) {
    pair.write_combined(&dir.join("kubelet.pem"));
}

#[test]
fn a_node_that_is_right_has_no_problem() {
    assert_eq!(wrong(|_, _| {}), Vec::<String>::new());
}

#[test]
fn a_key_that_every_user_may_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let files = Files::of(&Pki::new());
    let offline = || {
        files
            .check(&["https://203.0.113.10:6443".into()], &["--offline"])
            .1
    };
    let said = |lines: &[String]| -> Vec<String> {
        let said = lines.iter().filter(|line| line.contains("every user"));
        said.cloned().collect()
    };
    assert_eq!(said(&offline()), Vec::<String>::new());
    for (file, field) in [
        ("kubelet.pem", "clients[0].keyFile"),
        ("server.key", "listen.tls.keyFile"),
    ] {
        let path = files.path().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            said(&offline()),
            [format!(
                "warning: {field}: /{file}: every user of this node may read it; run chmod 600 /{file}"
            )]
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_list_of_revoked_certificates_is_counted_and_one_that_is_overdue_or_none_is_noticed() {
    let files = Files::of(&Pki::new());
    let write = |text: &str| fs::write(files.path().join("clients.crl"), text).unwrap();
    let revoked = files.pki.client(Some("a"), &[]);
    write(&files.pki.revoke(&[&revoked]));
    let (exit, lines) = files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    assert_eq!(exit, Exit::Ok, "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("/clients.crl: 1 client certificates are revoked")),
        "{lines:?}"
    );
    write(&files.pki.revoke_valid(&[], -60));
    assert!(one(&files.problems()).contains("a list in it is overdue"));
    write(files.pki.ca_pem());
    assert!(one(&files.problems()).contains("no list of revoked certificates"));
}

#[test]
fn an_address_for_pods_that_nothing_listens_at_is_warned_about() {
    let mut files = Files::of(&Pki::new());
    files.port = 51003;
    let check = |in_cluster: &str| {
        fs::write(
            files.path().join("more.yaml"),
            format!("inCluster: {in_cluster}\n"),
        )
        .unwrap();
        // Another test run may have the port at this moment.
        files
            .check(&["https://203.0.113.10:6443".into()], &["--offline"])
            .1
    };
    let lines = check(&format!(
        "{{address: \"127.0.0.2:51003\", serviceFor: [\"{KUBELET}\"]}}"
    ));
    for line in [
        "  pods find the API at 127.0.0.2:51003".to_owned(),
        format!("    as its Service, for {KUBELET}"),
    ] {
        assert!(lines.contains(&line), "{lines:?}");
    }
    assert!(!lines.iter().any(|line| line.contains("inCluster")), "{lines:?}");
    let lines = check("{address: \"169.254.20.11:51003\"}");
    for line in [
        "warning: inCluster: nothing listens at 169.254.20.11:51003; add it to listen.addresses",
        "warning: inCluster: nobody is told; name kubelet in serviceFor, or kube-proxy in endpointsFor",
    ] {
        assert!(lines.iter().any(|one| one == line), "{line}: {lines:?}");
    }
}

#[test]
fn a_serving_certificate_without_the_listen_address_is_noticed() {
    let found = wrong(|pki, dir| drop(pki.server(&["127.0.0.3"]).write_to(dir, "server")));
    assert_eq!(
        one(&found),
        "listen.tls.certFile: /server.crt: 127.0.0.2 is not among its names; clients that connect there will refuse it"
    );
}

#[test]
fn a_certificate_that_the_cluster_is_still_to_issue_is_waited_for_and_one_that_will_not_do_is_a_problem() {
    let files = Files::of(&Pki::new());
    files.pki.server(&["127.0.0.1"]).write_to(files.path(), "server");
    fs::write(files.path().join("csr"), "").unwrap();
    let waiting = |lines: &[String]| {
        let warning = "warning: listen.tls.csr: there is no certificate from the cluster yet;";
        lines.iter().any(|line| line.starts_with(warning))
    };
    let offline = || files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    let (exit, lines) = offline();
    assert!(waiting(&lines) && problems(&lines).is_empty(), "{lines:?}");
    assert_eq!(exit, Exit::Ok);
    fs::create_dir(files.path().join("serving")).unwrap();
    let issued = files.path().join("serving/serving-current.pem");
    files.pki.server(&["127.0.0.1"]).write_combined(&issued);
    let (exit, lines) = offline();
    assert!(!waiting(&lines), "{lines:?}");
    assert!(one(&problems(&lines)).contains("127.0.0.2 is not among its names"));
    assert_eq!(exit, Exit::Certificate);
}

#[test]
fn a_certificate_of_somebody_else_or_by_somebody_else_is_noticed() {
    let found = wrong(|pki, dir| kubelet(dir, &pki.client(Some("system:node:edge-2"), &[])));
    assert_eq!(
        one(&found),
        "clients[0].certFile: /kubelet.pem: it is the certificate of \"system:node:edge-2\", not of \"system:node:edge-1\"; it will not be used"
    );
    let found = wrong(|_, dir| kubelet(dir, &Pki::new().client(Some("system:node:edge-1"), &[])));
    assert!(
        one(&found).contains("not by an authority in /ca.crt"),
        "{found:?}"
    );
}

#[test]
fn an_expired_or_damaged_certificate_is_noticed() {
    let found = wrong(|pki, dir| {
        let expired = pki.client_valid(Some("system:node:edge-1"), &[], Validity::EXPIRED);
        kubelet(dir, &expired);
    });
    assert!(
        one(&found).starts_with("clients[0].certFile: it expired at 20"),
        "{found:?}"
    );
    let found =
        wrong(|_, dir| fs::write(dir.join("kubelet.pem"), "-----BEGIN CERTIFICATE-----\nMII").unwrap());
    assert!(one(&found).contains("half written"), "{found:?}");
    let found = wrong(|pki, dir| {
        let other = pki.server(&["127.0.0.1"]);
        fs::write(dir.join("server.key"), other.key_pem).unwrap();
    });
    assert!(
        one(&found).contains("does not belong to the certificate"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_there_and_take_every_client_are_said_to() {
    let first = Standin::start(Options::default());
    let second = Standin::start(Options {
        cluster: Some(first.cluster()),
        ..Options::default()
    });
    let files = Files::of(first.pki());
    let (exit, lines) = files.ask(&[first.url(), second.url()]);
    assert_eq!((exit, problems(&lines)), (Exit::Ok, vec![]), "{lines:?}");
    for url in [first.url(), second.url()] {
        for line in [
            format!("  {url}: reached, ready"),
            format!("  {url}: accepts {KUBELET}"),
        ] {
            assert!(lines.contains(&line), "{line:?} is not in {lines:?}");
        }
    }
    let seen = first.wait_for(|seen| seen.target == "/version").await;
    assert_eq!(seen.user.as_deref(), Some(KUBELET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_has_an_exit_code_and_hides_no_other() {
    let (away, there) = (
        Standin::start(Options::default()),
        Standin::start(Options::default()),
    );
    away.fault(Fault::Refuse(Existing::Cut));
    let files = Files::of(there.pki());
    let (exit, lines) = files.ask(&[away.url(), there.url()]);
    assert_eq!((exit, exit.code()), (Exit::Unreachable, 69));
    let found = problems(&lines);
    assert!(
        one(&found).starts_with(&format!("{}: no connection: ", away.url()))
            && found[0].contains("check address"),
        "{found:?}"
    );
    assert!(
        lines.contains(&format!("  {}: accepts {KUBELET}", there.url())),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_but_is_no_apiserver_that_is_ready_is_told_apart() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    for (fault, said) in [
        (Fault::Status(500), "is not ready: /readyz says 500"),
        (
            Fault::GatewayPage(502),
            "answers 502, but not as a kube-apiserver does",
        ),
        (Fault::Reset, "it broke off: "),
    ] {
        api.fault(fault.on("/readyz"));
        let (exit, lines) = files.ask(&[api.url()]);
        assert_eq!(exit, Exit::Unreachable, "{lines:?}");
        let found = problems(&lines);
        assert!(one(&found).contains(said), "{found:?}");
        api.clear_faults();
    }
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = plain.accept().await.unwrap();
            let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let (exit, lines) = files.ask(&[url]);
    let found = problems(&lines);
    assert!(
        one(&found).contains("check that it is the apiserver's https port"),
        "{found:?}"
    );
    assert_eq!(exit, Exit::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_does_to_answers_is_said() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    for path in ["/readyz", "/version"] {
        api.fault(Fault::GatewayPage(404).on(path));
    }
    let (exit, lines) = files.ask(&[api.url()]);
    assert_eq!(
        (exit, problems(&lines)),
        (Exit::Ok, vec![]),
        "only the API gets through"
    );
    assert!(
        lines.contains(&format!("  {}: accepts {KUBELET}", api.url())),
        "{lines:?}"
    );
    api.clear_faults();

    api.fault(Fault::Unaudited);
    let (exit, lines) = files.ask(&[api.url()]);
    assert_eq!(exit, Exit::Unreachable, "{lines:?}");
    let found = problems(&lines);
    assert!(one(&found).contains("without Audit-Id"), "{found:?}");
    assert!(found[0].contains("upstream.trustGateway"), "{found:?}");

    let demanding = Standin::start(Options {
        cluster: Some(api.cluster()),
        demand_certificate: true,
        ..Options::default()
    });
    let (exit, lines) = files.ask(&[demanding.url()]);
    assert_eq!((exit, problems(&lines)), (Exit::Ok, vec![]), "{lines:?}");
    let said = format!(
        "  {}: reached, for clients with a certificate alone",
        demanding.url()
    );
    assert!(lines.iter().any(|line| line.starts_with(&said)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_are_tried_and_one_that_leads_there_is_enough() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    let with = |interfaces: &str| {
        fs::write(files.path().join("interfaces"), interfaces).unwrap();
        files.ask(&[api.url()])
    };
    let (exit, lines) = with("[edgehold-none, lo]");
    let text = lines.join("\n");
    let bound = format!("{}: reached over lo, ready", api.url());
    assert!(text.contains(&bound), "{text}");
    assert!(
        text.contains(" over edgehold-none: no connection: there is no such interface"),
        "{text}"
    );
    assert_eq!((exit, problems(&lines)), (Exit::Ok, Vec::new()), "{text}");

    let (exit, lines) = with("[edgehold-none, edgehold-two]");
    assert_eq!(exit, Exit::Unreachable);
    let problems = problems(&lines);
    for interface in ["edgehold-none", "edgehold-two"] {
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains(&format!(" over {interface}: "))),
            "{problems:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    api.fault(Fault::StallHandshake);
    let (exit, lines) = files.ask(&[api.url()]);
    let found = problems(&lines);
    assert!(one(&found).contains(": no TLS handshake in 4s; "), "{found:?}");
    assert_eq!(exit, Exit::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_the_other_side_does_not_take_come_first() {
    let api = Standin::start(Options::default());
    let stranger = Standin::start(Options {
        pki: Some(Pki::named("another")),
        ..Options::default()
    });
    let files = Files::of(api.pki());
    let (exit, lines) = files.ask(&[stranger.url()]);
    let found = problems(&lines);
    assert!(
        one(&found).contains("upstream.caFile (/ca.crt) must be its authority"),
        "{found:?}"
    );
    assert_eq!((exit, exit.code()), (Exit::Certificate, 65));

    // Whole and of the right name, and the local authority knows it: only the server can say no.
    let other = Pki::named("other");
    kubelet(files.path(), &other.client(Some(KUBELET), &[]));
    let both = format!("{}{}", files.pki.ca_pem(), other.ca_pem());
    fs::write(files.path().join("ca.crt"), both).unwrap();
    assert_eq!(files.problems(), Vec::<String>::new());
    api.fault(Fault::Status(500).on("/readyz"));
    let (exit, lines) = files.ask(&[api.url()]);
    let found = problems(&lines);
    assert_eq!((exit, found.len()), (Exit::Certificate, 2), "{found:?}");
    assert!(
        found[0].contains(KUBELET) && found[0].contains("--client-ca-file of the kube-apiserver"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_yet_is_not_asked_for() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    fs::remove_file(files.path().join("kubelet.pem")).unwrap();
    let (exit, lines) = files.ask(&[api.url()]);
    assert_eq!((exit, problems(&lines)), (Exit::Ok, vec![]), "{lines:?}");
    assert!(
        lines.contains(&format!("  {}: reached, ready", api.url())),
        "{lines:?}"
    );
    assert!(api.requests().iter().all(|seen| seen.target == "/readyz"));
    fs::remove_file(files.path().join("ca.crt")).unwrap();
    let (exit, lines) = files.ask(&[api.url()]);
    assert_eq!(exit, Exit::Certificate, "{lines:?}");
    assert_eq!(
        problems(&lines),
        [
            "listen.tls.clientCAFile: /ca.crt: missing: no client gets a connection until it is there; is it spelt right?",
            "upstream.caFile: /ca.crt: missing: no server is believed until it is there; is it spelt right?",
        ]
    );
    assert!(
        lines.contains(&"  servers not asked: /ca.crt cannot be used".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn what_run_would_fail_on_check_fails_on() {
    let mut files = Files::of(&Pki::new());
    let taken = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    files.port = taken.local_addr().unwrap().port();
    let (exit, lines) = files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    assert_eq!((exit, exit.code()), (Exit::Failed, 1), "{lines:?}");
    let said = format!(
        "listen.addresses: cannot listen on 127.0.0.2:{0}: Address already in use (os error 98); `ss -ltnp 'sport = :{0}'` says who has it",
        files.port
    );
    assert!(problems(&lines).contains(&said), "{lines:?}");

    files.port = 0;
    fs::write(files.path().join("cache"), "").unwrap();
    let (exit, lines) = files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    assert_eq!(exit, Exit::Failed);
    assert_eq!(
        one(&problems(&lines)),
        "cache.path: /cache cannot hold the store: it is not a directory"
    );
    fs::remove_file(files.path().join("cache")).unwrap();
    let (_, lines) = files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    assert_eq!(problems(&lines), Vec::<String>::new());
    assert!(!files.path().join("cache").exists(), "nothing is made");
}

#[test]
fn a_cache_that_cannot_be_written_to_is_a_problem() {
    let files = Files::of(&Pki::new());
    fs::create_dir(files.path().join("cache")).unwrap();
    let offline = || files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
    assert_eq!(offline().0, Exit::Ok);
    // /proc takes no file, whoever asks.
    fs::remove_dir(files.path().join("cache")).unwrap();
    let config = files.path().join("unwritable.yaml");
    let text = fs::read_to_string(files.path().join("config.yaml")).unwrap();
    let at = files.path().display();
    fs::write(
        &config,
        text.replace(&format!("{at}/cache"), "/proc/edgehold/cache"),
    )
    .unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line = [
        "edgehold",
        "check",
        "--offline",
        "-o",
        "json",
        "--config",
        config.to_str().unwrap(),
    ];
    let exit = cli::execute(line.map(OsString::from), |_| unreachable!(), &mut out, &mut err);
    assert_eq!((exit, err.len()), (Exit::Failed, 0));
    let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        (
            &said["kind"],
            &said["ok"],
            &said["exitCode"],
            &said["problems"][0]["kind"]
        ),
        (&"CheckReport".into(), &false.into(), &1.into(), &"start".into()),
        "{said}"
    );
    let message = said["problems"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("cache.path: cannot make /proc/edgehold/cache: ")
            && message.ends_with("what is read would be in memory only, and gone at a restart"),
        "{message}"
    );
}

#[test]
fn a_serving_certificate_that_is_misspelt_or_no_file_is_a_problem() {
    let found = wrong(|_, dir| fs::rename(dir.join("server.crt"), dir.join("sever.crt")).unwrap());
    assert_eq!(
        one(&found),
        "listen.tls.certFile: /server.crt: missing: no client gets a connection until it is there; is it spelt right?"
    );
    let found = wrong(|_, dir| {
        fs::remove_file(dir.join("server.key")).unwrap();
        fs::create_dir(dir.join("server.key")).unwrap();
    });
    assert_eq!(
        one(&found),
        "listen.tls.keyFile: /server.key: not a file; name a PEM file"
    );
}

#[test]
fn wrong_usage_and_swapped_files_are_called_what_they_are() {
    let found = wrong(|pki, dir| {
        let server = pki.server(&["localhost"]);
        kubelet(dir, &server);
    });
    assert!(
        found
            .iter()
            .any(|problem| problem.contains("its extended key usage does not allow clients (clientAuth)")),
        "{found:?}"
    );
    assert!(
        !found
            .iter()
            .any(|problem| problem.contains("not by an authority")),
        "{found:?}"
    );
    let found = wrong(|_, dir| {
        fs::rename(dir.join("server.crt"), dir.join("cert")).unwrap();
        fs::rename(dir.join("server.key"), dir.join("server.crt")).unwrap();
        fs::rename(dir.join("cert"), dir.join("server.key")).unwrap();
    });
    assert!(
        one(&found).contains("it is a private key: are certFile and keyFile swapped"),
        "{found:?}"
    );
}

#[test]
fn a_certificate_that_ends_soon_is_warned_about() {
    let files = Files::of(&Pki::new());
    let ending = |seconds: i64| {
        let pair = files
            .pki
            .client_valid(Some(KUBELET), &["system:nodes"], Validity::for_seconds(seconds));
        kubelet(files.path(), &pair);
        let (exit, lines) = files.check(&["https://203.0.113.10:6443".into()], &["--offline"]);
        assert_eq!(exit, Exit::Ok, "{lines:?}");
        let said = lines.iter().find(|line| line.contains(" left: it expires at "));
        said.cloned().unwrap_or_default()
    };
    const DAY: i64 = 86_400;
    assert_eq!(ending(40 * DAY), "");
    for (seconds, said) in [
        (30 * DAY - 600, "29 days are left"),
        (DAY + 600, "1 day is left"),
        (3600, "less than a day is left"),
    ] {
        let found = ending(seconds);
        assert!(
            found.starts_with(&format!("warning: clients[0].certFile: {said}")),
            "{found}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_lacks_is_named_with_the_field_that_needs_it() {
    let api = Standin::start(Options::default());
    let files = Files::of(api.pki());
    fs::write(
        files.path().join("more.yaml"),
        format!("offline: {{issuer: {{commonName: \"{KUBELET}\"}}}}\n"),
    )
    .unwrap();
    let rights = || {
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                scope
                    .spawn(|| files.check(&[api.url()], &["--rights"]))
                    .join()
                    .unwrap()
            })
        })
    };
    let (exit, lines) = rights();
    assert_eq!(exit, Exit::Ok, "{lines:?}");
    assert!(
        lines.contains(&format!("  rights: {KUBELET} may get /openid/v1/jwks")),
        "{lines:?}"
    );
    // As every cluster lets everybody who has a name.
    let reviews = Rule::allow(Subject::Everyone, &["create"], &["selfsubjectaccessreviews"]);
    api.set_rbac(Rbac::deny_all().with(reviews));
    let (exit, lines) = rights();
    assert_eq!((exit, exit.code()), (Exit::Rights, 77), "{lines:?}");
    let said = format!(
        "offline.issuer (ClusterRole system:service-account-issuer-discovery): {KUBELET} may not get /openid/v1/jwks; RBAC must allow it"
    );
    assert!(problems(&lines).contains(&said), "{lines:?}");
}
