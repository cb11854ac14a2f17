//! Reads a configuration from a file, or from its text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{ConfigErrors, Fault, Position, Problems};
use super::schema::{self, Config};
use super::tree;

/// Where a node's configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/edgehold/config.yaml";

/// Bytes of a configuration file, at most.
const LARGEST: usize = 1 << 20;

/// Reads and validates a configuration file.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, is not UTF-8 or not YAML, or its content is not right: then every
/// problem of it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = contents(path).map_err(|error| {
        let fault = Fault::new(
            format!("cannot be read: {error}"),
            "name a readable file with --config",
        );
        ConfigErrors::whole_file(&name, fault)
    })?;
    let config = parse_bytes(&bytes, &name)?;
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(Config {
        file: Some(file),
        ..config
    })
}

/// One byte more than allowed tells a large file from one that just fits, and ends endless ones.
pub(super) fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Validates the text of a configuration; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, name: &str) -> Result<Config, ConfigErrors> {
    parse_bytes(text.as_bytes(), name)
}

fn parse_bytes(bytes: &[u8], name: &str) -> Result<Config, ConfigErrors> {
    if bytes.len() > LARGEST {
        let fix = "check that this is a configuration of edgehold";
        return Err(ConfigErrors::whole_file(
            name,
            Fault::new("is larger than 1 MiB", fix),
        ));
    }
    let problems = Problems::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = end_of(bytes.get(..error.valid_up_to()).unwrap_or_default());
            problems.add(
                at,
                "yaml",
                Fault::new("this is not UTF-8", "save the file as UTF-8"),
            );
            return Err(problems.into_errors(name));
        }
    };
    let config = tree::read(text, &problems).and_then(|root| schema::read(&root, &problems));
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_errors(name)),
    }
}

/// The position just after `text`.
fn end_of(text: &[u8]) -> Position {
    let text = String::from_utf8_lossy(text);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: text.matches('\n').count() + 1,
        column: last.chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{CacheStore, CacheSync, LogFormat, LogLevel};

    const MINIMAL: &str = include_str!("../../examples/minimal.yaml");
    const NODE: &str = include_str!("../../examples/edge-node.yaml");

    /// The promise about problems: at least one, and each on a line of its own that starts with the name.
    fn well_said(bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Err(errors) = parse_bytes(bytes, "f.yaml") {
            prop_assert!(!errors.problems().is_empty());
            for line in errors.to_string().split('\n') {
                prop_assert!(line.starts_with("f.yaml:") && line.contains("; "), "{line:?}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            well_said(&bytes)?;
        }

        #[test]
        fn any_yaml_like_text_is_answered(text in "([-a-c:\\[\\]{},&*!|>#?%@\"'~ \t\r\n]|null|<<|limits|clients){0,80}") {
            well_said(text.as_bytes())?;
        }

        #[test]
        fn a_damaged_configuration_is_answered(
            cut in 0..NODE.len(), length in 0..40usize, with in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let end = (cut + length).min(NODE.len());
            let bytes = [&NODE.as_bytes()[..cut], &with[..], &NODE.as_bytes()[end..]].concat();
            well_said(&bytes)?;
        }

        #[test]
        fn a_line_left_out_is_answered(line in 0..NODE.lines().count(), instead in "[ a-zA-Z\\[{:,}\\]-]{0,30}") {
            let lines: Vec<&str> =
                NODE.lines().enumerate().map(|(i, text)| if i == line { &*instead } else { text }).collect();
            well_said(lines.join("\n").as_bytes())?;
        }
    }

    #[test]
    fn the_minimal_configuration_has_the_documented_defaults() {
        let config = parse(MINIMAL, "minimal").unwrap();
        assert_eq!(config.listen.addresses, ["127.0.0.1:51003".parse().unwrap()]);
        let way = &config.upstream.settings;
        assert_eq!(way.dial.connect_timeout, Duration::from_secs(2));
        assert_eq!(way.response_timeout, Duration::from_secs(5));
        assert_eq!(way.probe.interval, Duration::from_secs(5));
        assert_eq!(way.probe.timeout, Duration::from_secs(2));
        assert_eq!(way.probe.failure_threshold, 2);
        assert_eq!(way.probe.success_threshold, 3);
        assert_eq!(way.strategy, crate::upstream::Strategy::Priority);
        assert_eq!(way.dial.keep_alive.interval, Duration::from_secs(3));
        assert_eq!(way.dial.keep_alive.timeout, Duration::from_millis(1500));
        assert_eq!(config.clients, []);
        assert_eq!(config.certificates.reload_interval, Duration::from_secs(1800));
        assert_eq!(config.certificates.retry_interval, Duration::from_secs(1));
        assert_eq!(config.cache.store, CacheStore::File);
        assert_eq!(config.cache.path, Path::new("/var/lib/edgehold"));
        assert_eq!(config.cache.max_size, 1 << 30);
        assert_eq!(config.cache.sync, CacheSync::Interval);
        assert_eq!(
            (config.log.format, config.log.level),
            (LogFormat::Text, LogLevel::Info)
        );
    }

    #[test]
    fn size_and_encoding_are_bounded() {
        let said = |bytes: &[u8]| parse_bytes(bytes, "f").unwrap_err().to_string();
        assert_eq!(
            said(&vec![0xff; LARGEST + 1]),
            "f: file: is larger than 1 MiB; check that this is a configuration of edgehold"
        );
        let fits = format!("{MINIMAL}{}", "#".repeat(LARGEST - MINIMAL.len()));
        assert!(parse(&fits, "f").is_ok());
        assert_eq!(
            said(b"kind: x\n\xc3\xa4: \xff\n"),
            "f:2:4: yaml: this is not UTF-8; save the file as UTF-8"
        );
    }
}
