//! `cache.encryption`: where the keys of the store come from. Whether they are there is for `app` to find out.

use std::path::PathBuf;

use super::error::{Fault, Problems, quoted};
use super::object::Field;

/// Where the keys of the store come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Absolute path of a file with a key on each line.
    KeyFile(PathBuf),
    /// The same as a credential of systemd, below `$CREDENTIALS_DIRECTORY`: a plain file name.
    Credential(String),
}

/// `Some(None)`: not configured. `None`: a problem was reported.
pub(super) fn read(field: Option<Field<'_>>, out: &mut Problems) -> Option<Option<Encryption>> {
    let Some(field) = field else {
        return Some(None);
    };
    let object = field.object(&["keyFile", "credential"], out)?;
    match (object.get("keyFile"), object.get("credential")) {
        (Some(file), None) => file
            .parse(super::schema::path, out)
            .map(|path| Some(Encryption::KeyFile(path))),
        (None, Some(name)) => name
            .parse(credential, out)
            .map(|name| Some(Encryption::Credential(name))),
        (file, name) => {
            let wrong = match file.and(name) {
                Some(_) => "has both keyFile and credential",
                None => "has neither keyFile nor credential",
            };
            let fix = "write {keyFile: /etc/edgehold/cache.key} or {credential: edgehold-cache-key}";
            field.refuse(Fault::new(wrong, fix), out);
            None
        }
    }
}

fn credential(text: &str) -> Result<String, Fault> {
    let is_name = !text.is_empty() && text != "." && text != "..";
    if is_name && !text.contains(|c: char| c == '/' || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{} is not the name of a credential", quoted(text)),
        "write the name as in LoadCredential= of the systemd unit",
    ))
}
