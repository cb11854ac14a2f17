//! The command line of a lite-apiserver, as its own parser (spf13/pflag) takes it.

/// Flags with a value, `--name value` or `--name=value` (`server_options.go`, `tls_options.go`; `v` is klog's).
const VALUES: [&str; 17] = [
    "ca-file",
    "tls-cert-file",
    "tls-private-key-file",
    "apiserver-ca-file",
    "kube-apiserver-url",
    "kube-apiserver-port",
    "address",
    "port",
    "timeout",
    "cache-type",
    "file-cache-path",
    "badger-cache-path",
    "bolt-cache-file",
    "network-interface",
    "url-mux-cache",
    "tls-config-file",
    "v",
];

/// Flags that may stand alone.
const SWITCHES: [&str; 3] = ["profiling", "modify-request-accept", "insecure"];

/// A command line, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    given: Vec<(String, String)>,
    unknown: Vec<String>,
}

/// Why a command line is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// A quote without its end.
    #[error("a quote is not closed")]
    OpenQuote,
    /// A flag at the end that needs a value.
    #[error("--{0} needs a value")]
    NoValue(String),
}

impl Flags {
    /// Reads a command line, or the `args` of a pod as they stand in its YAML. Words that are no flags are passed over: the name of
    /// the program, the dashes of a list.
    ///
    /// # Errors
    /// It is cut off.
    pub fn parse(text: &str) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut words = words(text)?.into_iter();
        while let Some(word) = words.next() {
            // klog's `-v` is the one flag with one dash.
            let short = || word.strip_prefix('-').filter(|rest| rest.starts_with('v'));
            let Some(flag) = word.strip_prefix("--").or_else(short) else {
                continue;
            };
            if flag.is_empty() {
                continue;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let value = match value {
                Some(value) => value,
                None if SWITCHES.contains(&name) => "true".to_owned(),
                None if VALUES.contains(&name) => {
                    words.next().ok_or_else(|| FlagError::NoValue(name.to_owned()))?
                }
                None => String::new(),
            };
            if VALUES.contains(&name) || SWITCHES.contains(&name) {
                flags.given.push((name.to_owned(), value));
            } else {
                flags.unknown.push(name.to_owned());
            }
        }
        Ok(flags)
    }

    /// The last value counts, as there.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).pop()
    }

    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let given = self.given.iter().filter(|(flag, _)| flag == name);
        given
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
            .collect()
    }

    pub(super) fn is_on(&self, name: &str, default: &str) -> bool {
        matches!(
            self.value(name).unwrap_or(default),
            "true" | "t" | "T" | "1" | "TRUE" | "True"
        )
    }

    pub(super) fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

/// As a shell splits them: spaces, quotes, backslashes before a line's end.
fn words(text: &str) -> Result<Vec<String>, FlagError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => match characters.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(FlagError::OpenQuote);
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_come_after_a_sign_or_a_space_and_switches_alone() {
        let flags = Flags::parse(
            "lite-apiserver --port=51003 --timeout 3 --insecure -v=4 --address=127.0.0.1 --address ::1",
        )
        .unwrap();
        assert_eq!(flags.value("port"), Some("51003"));
        assert_eq!(flags.value("timeout"), Some("3"));
        assert_eq!(flags.value("v"), Some("4"));
        assert_eq!(flags.values("address"), ["127.0.0.1", "::1"]);
        assert!(flags.is_on("insecure", "false") && !flags.is_on("profiling", "false"));
        assert!(
            !Flags::parse("--insecure=false")
                .unwrap()
                .is_on("insecure", "false")
        );
    }

    #[test]
    fn the_arguments_of_a_pod_and_a_wrapped_line_are_read_too() {
        let pod = "        - --kube-apiserver-url=10.0.0.1\n        - \"--port=51003\"\n";
        let line = "--kube-apiserver-url=10.0.0.1 \\\n  '--port=51003'";
        assert_eq!(Flags::parse(pod).unwrap(), Flags::parse(line).unwrap());
        assert_eq!(Flags::parse(pod).unwrap().value("port"), Some("51003"));
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_said() {
        assert_eq!(Flags::parse("--port"), Err(FlagError::NoValue("port".to_owned())));
        assert_eq!(Flags::parse("--port='1"), Err(FlagError::OpenQuote));
        assert_eq!(Flags::parse("--colour=red").unwrap().unknown(), ["colour"]);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in any::<String>()) {
            let _ = Flags::parse(&text);
        }
    }
}
