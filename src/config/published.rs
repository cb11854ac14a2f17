//! The configuration as it may be given to others, and other values as YAML.
//!
//! Only one that is good: then each value is one of the schema, and the only secret among these is what stands before the
//! `@` of a proxy's URL. Comments stay behind.

use std::path::Path;

use serde_json::Value;

use super::file::{contents, load};

/// Instead of a user and a password.
const REMOVED: &str = "(removed)";

/// The configuration of a file as JSON, without credentials and comments.
///
/// # Errors
/// Why it is not given, in words that quote nothing of it.
pub fn without_credentials(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = || "it is not a good configuration: `edgehold check` says where".to_owned();
    load(path).map_err(|_| wrong())?;
    let text = contents(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(text).map_err(|_| wrong())?;
    let mut config: Value = serde_saphyr::from_str(&text).map_err(|_| wrong())?;
    clean("", &mut config);
    serde_json::to_vec_pretty(&config).map_err(|error| error.to_string())
}

/// A value in YAML.
///
/// # Errors
/// What cannot be written as YAML, in words.
pub fn yaml(value: &impl serde::Serialize) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

fn clean(name: &str, value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| clean(name, value)),
        Value::Array(elements) => elements.iter_mut().for_each(|element| clean(name, element)),
        Value::String(text) if text.contains("://") || name == "proxyURL" => {
            if let Some((start, host)) = text.rsplit_once('@') {
                let scheme = start
                    .split_once("://")
                    .map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
                *text = format!("{scheme}{REMOVED}@{host}");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_before_the_at_of_a_url_is_removed_and_nothing_else() {
        let mut config = json!({
            "upstream": {"servers": ["https://a:6443"], "proxyURL": "http://me:pl@nted@proxy:3128", "noProxy": ["x@y"]},
            "clients": [{"commonName": "a@b", "certFile": "/etc/a@b.crt"}],
        });
        clean("", &mut config);
        assert_eq!(
            config,
            json!({
                "upstream": {"servers": ["https://a:6443"], "proxyURL": "http://(removed)@proxy:3128", "noProxy": ["x@y"]},
                "clients": [{"commonName": "a@b", "certFile": "/etc/a@b.crt"}],
            })
        );
        let mut bare = json!({"proxyURL": "me:planted@proxy:3128"});
        clean("", &mut bare);
        assert_eq!(bare, json!({"proxyURL": "(removed)@proxy:3128"}));
    }
}
