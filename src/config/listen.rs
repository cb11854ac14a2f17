//! `listen`: where local clients connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::error::Fault;
use super::object::{Distinct, Field, Object, distinct};
use super::reference::Names;
use super::serving::{self, ServingPair};
use super::{address, text};

/// As lite-apiserver.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 51003);

/// `listen`: where local clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Never empty; no address twice. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// The certificate shown to clients and the authority for theirs.
    pub tls: ServingPair,
    /// A client that takes nothing of what is ready for it for so long is dropped.
    pub write_timeout: Duration,
    /// An interface of its own for node-local addresses.
    pub dummy_interface: Option<DummyInterface>,
}

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

/// `cache_path` is where what comes from the cluster is kept.
pub(super) fn read(listen: &mut Object<'_>, cache_path: &Path, names: &Names) -> Option<Listen> {
    let addresses = listen.or("addresses", vec![DEFAULT_ADDRESS], |field| {
        Some(read_addresses(field))
    });
    let tls = listen.required("tls");
    let tls = tls.and_then(|field| field.object(|tls| serving::read(tls, cache_path, names)));
    Some(Listen {
        addresses,
        dummy_interface: listen.optional("dummyInterface", read_interface),
        write_timeout: listen.duration("writeTimeout", Duration::from_secs(15 * 60)),
        tls: tls?,
    })
}

fn read_addresses(field: &Field<'_>) -> Vec<SocketAddr> {
    let mut distinct = Distinct::default();
    let items = field.non_empty("at least one address, like 127.0.0.1:51003");
    let read = items.iter().filter_map(|item| {
        let address = item.parse(address::listen)?;
        // Port 0 is another port each time.
        if address.port() != 0 {
            distinct.note(item, address.to_string());
        }
        Some(address)
    });
    read.collect()
}

fn read_interface(field: &Field<'_>) -> Option<DummyInterface> {
    if !cfg!(feature = "dummy-interface") {
        field.refuse(Fault::new(
            "this edgehold was built without interfaces",
            "build it with the feature `dummy-interface`, or remove this",
        ));
    }
    field.object(|interface| {
        let name = interface.required("name");
        let name = name.and_then(|field| field.parse(text::interface));
        let addresses = interface.required("addresses").map(|field| {
            let items = field.non_empty("at least one address, like 169.254.20.11");
            distinct(&items, address::ip)
        });
        let on_exit = interface.or("removeOnExit", OnExit::Keep, |field| {
            field.choice(&[("true", OnExit::Remove), ("false", OnExit::Keep)])
        });
        Some(DummyInterface {
            name: name?,
            addresses: addresses?,
            on_exit,
        })
    })
}
