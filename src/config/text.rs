//! Kinds of text that more than one section has.

use std::path::PathBuf;

use super::error::{Fault, quoted};

/// The longest name of an interface that Linux takes (`IFNAMSIZ` less the final zero).
const LONGEST_INTERFACE: usize = 15;

pub(super) fn path(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty", "write an absolute path"));
    }
    if text.chars().any(char::is_control) {
        let wrong = format!("{} has a control character", quoted(text));
        return Err(Fault::new(wrong, "write a plain path"));
    }
    if !text.starts_with('/') {
        return Err(Fault::new(
            format!("{} is not an absolute path", quoted(text)),
            "start it with /; nothing is looked up relative to the directory of the configuration file",
        ));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn common_name(text: &str) -> Result<String, Fault> {
    let fix = "write the common name (CN) of the client certificate";
    if text.trim().is_empty() {
        return Err(Fault::new("is empty", fix));
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        let wrong = format!("{} has spaces around it or a control character", quoted(text));
        return Err(Fault::new(wrong, fix));
    }
    Ok(text.to_owned())
}

pub(super) fn interface(text: &str) -> Result<String, Fault> {
    let fits = (1..=LONGEST_INTERFACE).contains(&text.len()) && text != "." && text != "..";
    if fits
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
    {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{} cannot name an interface", quoted(text)),
        "write at most 15 characters without spaces, / or :",
    ))
}
