//! `listen.dummyInterface`.

use std::net::IpAddr;

use super::address;
use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default, refuse_repeats};
use super::schema::non_empty;

/// The longest name that Linux takes (`IFNAMSIZ` less the final zero).
const LONGEST: usize = 15;

/// `listen.dummyInterface`: an interface for node-local addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DummyInterface {
    /// A name that Linux takes.
    pub name: String,
    /// Never empty; no address twice.
    pub addresses: Vec<IpAddr>,
    /// What happens to it when edgehold ends.
    pub on_exit: OnExit,
}

/// `listen.dummyInterface.removeOnExit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// It stays: a restart does not take the address from under the pods' connections.
    Keep,
    /// It goes.
    Remove,
}

/// `Some(None)` without the field.
pub(super) fn read(listen: &Object<'_>, out: &mut Problems) -> Option<Option<DummyInterface>> {
    let Some(field) = listen.get("dummyInterface") else {
        return Some(None);
    };
    if !cfg!(feature = "dummy-interface") {
        let wrong = "this edgehold was built without interfaces";
        field.refuse(
            Fault::new(
                wrong,
                "build it with the feature `dummy-interface`, or remove this",
            ),
            out,
        );
    }
    let object = field.object(&["name", "addresses", "removeOnExit"], out)?;
    let name = object
        .required("name", out)
        .and_then(|field| field.parse(name, out));
    let addresses = object
        .required("addresses", out)
        .and_then(|field| read_addresses(&field, out));
    let on_exit = or_default(object.get("removeOnExit"), OnExit::Keep, |field| {
        field.choice(&[("true", OnExit::Remove), ("false", OnExit::Keep)], out)
    });
    Some(Some(DummyInterface {
        name: name?,
        addresses: addresses?,
        on_exit: on_exit?,
    }))
}

fn read_addresses(field: &Field<'_>, out: &mut Problems) -> Option<Vec<IpAddr>> {
    let items = non_empty(field, "at least one address, like 169.254.20.11", out)?;
    let count = items.len();
    let read = items.into_iter().filter_map(|item| {
        let address = item.parse(address::ip, out)?;
        Some((item, address))
    });
    let addresses: Vec<_> = read.collect();
    refuse_repeats(&addresses, out);
    let complete = addresses.len() == count;
    complete.then(|| addresses.into_iter().map(|(_, address)| address).collect())
}

pub(super) fn name(text: &str) -> Result<String, Fault> {
    let fits = (1..=LONGEST).contains(&text.len()) && text != "." && text != "..";
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
