//! `edgehold check` on a node: what is wrong with the certificates that are there, before a client finds out.
#![allow(clippy::disallowed_methods)] // files of a node are written here

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use apiserver_standin::{Pair, Pki, Validity};
use edgehold::cli::{self, Exit};

/// A node's files, right in every way, and what `check` says after one of them was replaced.
fn warnings(replace: impl FnOnce(&Pki, &Path)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    pki.server(&["127.0.0.2"]).write_to(dir.path(), "server");
    let kubelet = dir.path().join("kubelet.pem");
    pki.client(Some("system:node:edge-1"), &["system:nodes"])
        .write_combined(&kubelet);
    pki.write_ca(dir.path(), "ca");
    replace(&pki, dir.path());
    let at = dir.path().display();
    let text = format!(
        "apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: [\"127.0.0.1:51003\", \"127.0.0.2:51003\"]
  tls: {{certFile: {at}/server.crt, keyFile: {at}/server.key, clientCAFile: {at}/ca.crt}}
upstream: {{servers: [\"https://203.0.113.10:6443\"], caFile: {at}/ca.crt}}
clients:
  - {{commonName: \"system:node:edge-1\", certFile: {at}/kubelet.pem, keyFile: {at}/kubelet.pem}}
"
    );
    let config = dir.path().join("config.yaml");
    fs::write(&config, text).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line: [OsString; 4] = [
        "edgehold".into(),
        "check".into(),
        "--config".into(),
        config.into(),
    ];
    let exit = cli::execute(line, |_| unreachable!(), &mut out, &mut err);
    let out = String::from_utf8(out).unwrap();
    assert_eq!((exit, err.len()), (Exit::Ok, 0), "{out}");
    assert!(!out.contains("PRIVATE"), "{out}");
    let warnings = out.lines().filter_map(|line| line.strip_prefix("warning: "));
    warnings.map(|line| line.replace(&at.to_string(), "")).collect()
}

fn one(warnings: &[String]) -> &str {
    let [warning] = warnings else {
        panic!("one warning: {warnings:?}")
    };
    warning
}

fn kubelet(dir: &Path, pair: &Pair) {
    pair.write_combined(&dir.join("kubelet.pem"));
}

#[test]
fn a_node_that_is_right_gets_no_warning() {
    assert_eq!(warnings(|_, _| {}), Vec::<String>::new());
}

#[test]
fn a_serving_certificate_without_the_listen_address_is_noticed() {
    let found = warnings(|pki, dir| drop(pki.server(&["127.0.0.3"]).write_to(dir, "server")));
    assert_eq!(
        one(&found),
        "listen.tls.certFile: /server.crt: 127.0.0.2 is not among its names; clients that connect there will refuse it"
    );
}

#[test]
fn a_certificate_of_somebody_else_or_by_somebody_else_is_noticed() {
    let found = warnings(|pki, dir| kubelet(dir, &pki.client(Some("system:node:edge-2"), &[])));
    assert_eq!(
        one(&found),
        "clients[0].certFile: /kubelet.pem: it is the certificate of \"system:node:edge-2\", not of \"system:node:edge-1\"; it will not be used"
    );
    let found = warnings(|_, dir| kubelet(dir, &Pki::new().client(Some("system:node:edge-1"), &[])));
    assert!(
        one(&found).contains("not by an authority in /ca.crt"),
        "{found:?}"
    );
}

#[test]
fn an_expired_or_damaged_certificate_is_noticed() {
    let found = warnings(|pki, dir| {
        let expired = pki.client_valid(Some("system:node:edge-1"), &[], Validity::EXPIRED);
        kubelet(dir, &expired);
    });
    assert!(
        one(&found).starts_with("clients[0].certFile: it expired at 20"),
        "{found:?}"
    );
    let found =
        warnings(|_, dir| fs::write(dir.join("kubelet.pem"), "-----BEGIN CERTIFICATE-----\nMII").unwrap());
    assert!(one(&found).contains("half written"), "{found:?}");
    let found = warnings(|pki, dir| {
        let other = pki.server(&["127.0.0.1"]);
        fs::write(dir.join("server.key"), other.key_pem).unwrap();
    });
    assert!(
        one(&found).contains("does not belong to the certificate"),
        "{found:?}"
    );
}
