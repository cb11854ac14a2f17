//! `edgehold check --from-lite-apiserver`: what it prints is a configuration that does the same, and that `check` accepts.
#![allow(clippy::disallowed_methods)] // files of a node are written here

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use apiserver_standin::Pki;
use edgehold::cli::{self, Exit};
use edgehold::config::{self, CacheStore, Config, LogLevel};

/// As in SuperEdge's own deployment (`deployment/lite-apiserver.yaml`).
const ARGS: &str = "
        - --ca-file=/etc/kubernetes/pki/ca.crt
        - --tls-cert-file=/etc/kubernetes/edge/lite-apiserver.crt
        - --tls-private-key-file=/etc/kubernetes/edge/lite-apiserver.key
        - --kube-apiserver-url=203.0.113.10
        - --kube-apiserver-port=6443
        - --port=51003
        - --tls-config-file=/etc/kubernetes/edge/tls.json
        - --v=4
        - --file-cache-path=/data/lite-apiserver/cache
        - --timeout=3";

fn run(json: &Path, args: Option<&str>) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut line: Vec<OsString> = vec![
        "edgehold".into(),
        "check".into(),
        "--from-lite-apiserver".into(),
        json.into(),
    ];
    line.extend(
        args.into_iter()
            .flat_map(|args| ["--lite-apiserver-args".into(), args.into()]),
    );
    let exit = cli::execute(line, |_| unreachable!(), &mut out, &mut err);
    apiserver_standin::secrets::search("what a command printed", &[out.as_slice(), &err].concat());
    (
        exit,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn accepted(yaml: &str) -> Config {
    config::parse(yaml, "translated").unwrap_or_else(|errors| panic!("{errors}\n{yaml}"))
}

/// A `tls.json` with kubelet's pair in one file, and kube-proxy's in two.
fn node(dir: &Path) -> std::path::PathBuf {
    let pki = Pki::new();
    let kubelet = dir.join("kubelet.pem");
    pki.client(Some("system:node:edge-1"), &["system:nodes"])
        .write_combined(&kubelet);
    let (cert, key) = pki
        .client(Some("system:kube-proxy"), &[])
        .write_to(dir, "kube-proxy");
    let json = serde_json::json!([{"key": kubelet, "cert": kubelet}, {"key": key, "cert": cert}]);
    let path = dir.join("tls.json");
    fs::write(&path, json.to_string()).unwrap();
    path
}

#[test]
fn a_lite_apiserver_is_translated_flag_by_flag() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, yaml, err) = run(&node(dir.path()), Some(ARGS));
    assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
    let config = accepted(&yaml);
    assert_eq!(config.listen.addresses, ["127.0.0.1:51003".parse().unwrap()]);
    assert_eq!(
        config.listen.tls.cert_file,
        Path::new("/etc/kubernetes/edge/lite-apiserver.crt")
    );
    assert_eq!(
        config.listen.tls.key_file,
        Path::new("/etc/kubernetes/edge/lite-apiserver.key")
    );
    assert_eq!(
        config.listen.tls.client_ca_file,
        Path::new("/etc/kubernetes/pki/ca.crt")
    );
    assert_eq!(config.upstream.urls, ["https://203.0.113.10:6443"]);
    assert_eq!(config.upstream.ca_file, Path::new("/etc/kubernetes/pki/ca.crt"));
    assert_eq!(config.upstream.settings.dial.connect_timeout.as_secs(), 3);
    assert_eq!(config.log.level, LogLevel::Debug);
    let names: Vec<&str> = config
        .clients
        .iter()
        .map(|client| client.common_name.as_str())
        .collect();
    assert_eq!(names, ["system:node:edge-1", "system:kube-proxy"]);
    assert_eq!(config.clients[0].key_file, dir.path().join("kubelet.pem"));
    assert_eq!(config.clients[1].cert_file, dir.path().join("kube-proxy.crt"));
}

#[test]
fn several_addresses_another_authority_and_a_memory_cache_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "{ARGS} --address=127.0.0.1 --address ::1 --apiserver-ca-file /ca/api.crt --cache-type=memory --timeout=0"
    );
    let config = accepted(&run(&node(dir.path()), Some(&more)).1);
    assert_eq!(
        config.listen.addresses,
        ["127.0.0.1:51003".parse().unwrap(), "[::1]:51003".parse().unwrap()]
    );
    assert_eq!(config.upstream.ca_file, Path::new("/ca/api.crt"));
    assert_eq!(config.cache.store, CacheStore::Memory);
    assert_eq!(
        config.upstream.settings.dial.connect_timeout.as_secs(),
        10,
        "0 is ten seconds there"
    );
}

#[test]
fn what_has_no_counterpart_is_said_in_a_comment_and_on_stderr_if_something_is_left_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "{ARGS} --insecure --profiling --url-mux-cache=/api/v1/nodes --modify-request-accept=false --colour=red"
    );
    let (exit, yaml, err) = run(&node(dir.path()), Some(&more));
    assert_eq!(exit, Exit::Ok);
    accepted(&yaml);
    for flag in [
        "--insecure",
        "--profiling",
        "--url-mux-cache",
        "--modify-request-accept",
    ] {
        assert!(
            yaml.lines().any(|line| line.contains('#') && line.contains(flag)),
            "{flag} in\n{yaml}"
        );
    }
    assert!(
        yaml.contains("# --colour is not a flag of lite-apiserver."),
        "{yaml}"
    );
    assert_eq!(
        err,
        "todo: --insecure has no counterpart: upstream.caFile must hold the server's authority\n"
    );
}

#[test]
fn its_uplinks_are_tried_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let more =
        format!("{ARGS} --network-interface=wwan0,eth0 --network-interface eth1 --network-interface=eth0,");
    let (exit, yaml, err) = run(&node(dir.path()), Some(&more));
    assert_eq!((exit, err.as_str()), (Exit::Ok, ""), "nothing is left to do");
    assert_eq!(
        accepted(&yaml).upstream.settings.dial.interfaces,
        ["wwan0", "eth0", "eth1"]
    );
}

#[test]
fn without_its_flags_the_file_is_whole_and_says_what_to_fill_in() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, yaml, err) = run(&node(dir.path()), None);
    assert_eq!(exit, Exit::Ok);
    let config = accepted(&yaml);
    assert_eq!(
        config.upstream.settings.servers[0].host, "kube-apiserver.invalid",
        "it can reach nobody"
    );
    assert!(err.contains("todo: --kube-apiserver-url was not given"), "{err}");
    assert_eq!(err.matches("--ca-file").count(), 1, "{err}");
}

#[test]
fn pairs_that_cannot_be_read_and_names_given_twice_do_not_spoil_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let pair = dir.path().join("kubelet.pem");
    Pki::new()
        .client(Some("system:node:edge-1"), &[])
        .write_combined(&pair);
    let pair = pair.to_str().unwrap();
    let json = dir.path().join("tls.json");
    let text = format!(
        r#"[{{"cert":"{pair}","key":"{pair}"}},{{"Cert":"/gone \"1\".crt","Key":"/gone.key"}},{{"cert":"{pair}","key":"{pair}"}}]"#
    );
    fs::write(&json, text).unwrap();
    let (exit, yaml, err) = run(&json, Some(ARGS));
    assert_eq!(exit, Exit::Ok);
    let config = accepted(&yaml);
    assert_eq!(config.clients.len(), 1, "{yaml}");
    assert!(yaml.contains("another pair with this name follows"), "{yaml}");
    assert!(
        err.contains("todo: /gone \"1\".crt: its common name is not known"),
        "{err}"
    );
}

#[test]
fn what_is_no_tls_json_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("tls.json");
    let name = json.display().to_string();
    for (text, said) in [
        ("{}", "is not a list of pairs like"),
        ("[{\"cert\": \"/a\"}]", "has no `key` in its entry 1"),
        ("nonsense", "is not a list of pairs like"),
    ] {
        fs::write(&json, text).unwrap();
        let (exit, out, err) = run(&json, None);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""));
        assert!(err.starts_with(&format!("{name} {said}")), "{err}");
    }
    assert_eq!(run(&dir.path().join("none"), None).0, Exit::Usage);
    fs::write(&json, "[]").unwrap();
    let (exit, _, err) = run(&json, Some("--port"));
    assert_eq!(
        (exit, err.as_str()),
        (Exit::Usage, "--lite-apiserver-args: --port needs a value\n")
    );
}
