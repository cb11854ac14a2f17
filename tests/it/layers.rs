//! A file may import only the layers below its own (ARCHITECTURE.md).

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with the layers that it may import, besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("runtime", &[]),
    ("kube", &[]),
    ("wire", &["kube"]),
    ("view", &["kube", "wire"]),
    ("tls", &["runtime"]),
    ("identity", &["kube", "tls"]),
    ("store", &["runtime", "view"]),
    ("cache", &["runtime", "kube", "view", "store", "wire", "identity"]),
    ("upstream", &["runtime", "tls", "identity"]),
    ("filter", &["kube", "wire"]),
    (
        "proxy",
        &[
            "runtime", "kube", "wire", "view", "tls", "identity", "store", "cache", "upstream", "filter",
        ],
    ),
    ("node", &["runtime", "upstream", "tls"]),
];

/// Modules that may import everything.
const TOP: &[&str] = &["server", "admin", "config", "setup", "cli", "app", "main", "lib"];

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn layer_of(src: &Path, file: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    first
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The layers that the text of a file names as `crate::layer`, also inside `use crate::{a, b}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            let mut words = Vec::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => words.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            words.push(word);
            found.extend(
                words
                    .iter()
                    .filter_map(|w| w.trim().split("::").next().map(str::to_owned)),
            );
        } else {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn files_import_only_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(
        files.len() > 10,
        "found only {} files below {}",
        files.len(),
        src.display()
    );
    let mut wrong = Vec::new();
    for file in files {
        let own = layer_of(&src, &file);
        if TOP.contains(&own.as_str()) {
            continue;
        }
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == own)
            .unwrap_or_else(|| panic!("{} belongs to no layer: add it to LAYERS", file.display()));
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import != own && !allowed.contains(&import.as_str()) {
                wrong.push(format!(
                    "{} imports {import}",
                    file.strip_prefix(&src).unwrap().display()
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_check_sees_plain_and_grouped_imports() {
    assert_eq!(imports("use crate::kube::media::Encoding;"), ["kube"]);
    assert_eq!(
        imports("use crate::{kube::{media, version}, wire};"),
        ["kube", "wire"]
    );
    assert_eq!(imports("fn f(x: crate::view::View) {}"), ["view"]);
}
