//! Fields of the schema whose features come later: checked like all others, so that a configuration written today
//! stays right, then refused, so that nobody believes to have what is not there.

use super::address;
use super::error::{Fault, Problems, quoted};
use super::object::Object;

const FIX: &str = "remove it";

pub(super) fn admin(root: &Object<'_>, out: &mut Problems) {
    let Some(field) = root.get("admin") else {
        return;
    };
    field.not_supported("the admin listener is", FIX, out);
    if let Some(object) = field.object(&["address"], out)
        && let Some(field) = object.required("address", out)
    {
        field.parse(admin_address, out);
    }
}

/// The loopback or a Unix socket: whoever reaches it can read everything.
fn admin_address(text: &str) -> Result<(), Fault> {
    let fix = "write it like 127.0.0.1:51004 or unix:/run/edgehold/admin.sock";
    if let Some(path) = text.strip_prefix("unix:") {
        return super::schema::path(path).map(drop);
    }
    if address::listen(text)?.ip().is_loopback() {
        return Ok(());
    }
    let wrong = format!("{} is not on the loopback", quoted(text));
    Err(Fault::new(wrong, fix))
}
