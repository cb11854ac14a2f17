//! `examples/monitoring`: rules and dashboard ask only for what there is, and the rules' own tests pass.
#![allow(clippy::disallowed_methods)] // files are read here

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The words of a text that name metrics of edgehold or of its process.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let of_ours = |word: &&str| word.starts_with("edgehold_") || word.starts_with("process_");
    // What follows a name in a histogram.
    let plain = |word: &str| word.strip_suffix("_bucket").unwrap_or(word).to_owned();
    words.filter(of_ours).map(plain).collect()
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let known = metrics(&fs::read_to_string(root().join("docs/monitoring.md")).unwrap());
    for name in ["alerts.yaml", "alerts-test.yaml", "dashboard.json"] {
        let text = fs::read_to_string(root().join("examples/monitoring").join(name)).unwrap();
        let asked = metrics(&text);
        assert!(asked.len() > 5, "{name}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}");
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    let dir = root().join("examples/monitoring");
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let rules: Value = serde_saphyr::from_str(&read("alerts.yaml")).unwrap();
    let tests = read("alerts-test.yaml");
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 8);
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(rule["annotations"]["action"].is_string(), "{name}");
        assert!(
            tests.contains(&format!("alertname: {name}}}")),
            "{name} is not tested"
        );
        assert!(
            tests.contains(&format!("{{alertname=\"{name}\"}}")),
            "{name} never fires in a test"
        );
    }
    for name in ["agent.yaml", "podmonitor.yaml"] {
        let _: Value = serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let _: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
}

#[test]
fn the_rules_own_tests_pass() {
    let has_promtool = Command::new("promtool").arg("--version").output().is_ok();
    if !has_promtool {
        eprintln!(
            "SKIPPED the_rules_own_tests_pass: there is no promtool; examples/monitoring/test installs it"
        );
        return;
    }
    let script: &Path = &root().join("examples/monitoring/test");
    let done = Command::new(script).output().unwrap();
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(
        done.status.success() && text.contains("SUCCESS: 13 rules found"),
        "{text}"
    );
}
