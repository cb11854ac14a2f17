//! Every relative link of the documents leads to a file.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of which nobody reads the documents.
const SKIPPED: [&str; 2] = ["target", ".git"];

fn documents(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        // A link to a folder may lead out of the repository.
        let is_dir = entry.file_type().unwrap().is_dir();
        if is_dir && !SKIPPED.iter().any(|skipped| name == *skipped) {
            documents(&path, into);
        } else if !is_dir && path.extension().is_some_and(|end| end == "md") {
            into.push(path);
        }
    }
}

/// The targets of `[text](target)`, outside of code blocks, that are neither URLs nor places on the same page.
fn relative_links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let targets = prose.flat_map(|prose| {
        prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
    });
    targets
        .map(|target| target.split('#').next().unwrap())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .collect()
}

fn broken(document: &Path, text: &str) -> Vec<String> {
    let dir = document.parent().unwrap();
    let links = relative_links(text).into_iter();
    links
        .filter(|link| !dir.join(link).exists())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut found = Vec::new();
    documents(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert!(found.len() > 10, "{found:?}");
    let mut links = 0;
    for document in found {
        let text = fs::read_to_string(&document).unwrap();
        links += relative_links(&text).len();
        let wrong = broken(&document, &text);
        assert!(wrong.is_empty(), "{}: {wrong:?}", document.display());
    }
    assert!(links > 40, "{links}");
}

#[test]
fn a_link_that_leads_nowhere_would_be_noticed() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = "[a](docs/none.md#x) [b](README.md) [c](https://example.com) [d](#here)\n```\n[e](none)\n```\n[f](nor.md)";
    assert_eq!(broken(&readme, text), ["docs/none.md", "nor.md"]);
}
