//! Speaks rtnetlink: looks at one interface, carries operations out, hears of changes.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup};

use super::plan::{Observed, Operation, Present};
use super::problem::Problem;
use crate::runtime::tasks::Tasks;

// From linux/errno.h; the same on every architecture that edgehold is built for.
const EPERM: i32 = 1;
const ENODEV: i32 = 19;
const EOPNOTSUPP: i32 = 95;

type Changes = dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send;

/// An open conversation with the kernel about one interface.
pub(super) struct Netlink {
    handle: Handle,
    changes: Pin<Box<Changes>>,
    name: String,
    index: Option<u32>,
}

impl Netlink {
    /// Opens a socket that hears of links and addresses; needs no rights.
    pub(super) fn open(name: &str, tasks: &Tasks) -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, changes) = rtnetlink::new_multicast_connection(&groups)?;
        // Ends when the handle is dropped.
        tasks.spawn("netlink", connection);
        Ok(Self {
            handle,
            changes: Box::pin(changes),
            name: name.to_owned(),
            index: None,
        })
    }

    /// The interface as it is now.
    pub(super) async fn observe(&mut self) -> Result<Observed, Problem> {
        let found = self.handle.link().get().match_name(self.name.clone()).execute();
        let link = match Box::pin(found).try_next().await {
            Ok(Some(link)) => link,
            Ok(None) => return Ok(self.absent()),
            Err(error) if code(&error) == Some(ENODEV) => return Ok(self.absent()),
            Err(error) => return Err(problem(&error)),
        };
        let index = link.header.index;
        self.index = Some(index);
        let listed = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<AddressMessage> = listed.try_collect().await.map_err(|error| problem(&error))?;
        let addresses = messages
            .iter()
            // An old kernel does not filter.
            .filter(|message| message.header.index == index)
            .filter_map(|message| Some((local(message)?, message.header.prefix_len)))
            .collect();
        Ok(Observed::Present(Present {
            index,
            kind: kind(&link),
            up: link.header.flags.contains(LinkFlags::Up),
            addresses,
        }))
    }

    fn absent(&mut self) -> Observed {
        self.index = None;
        Observed::Absent
    }

    /// Carries one operation out.
    pub(super) async fn apply(&mut self, kind: &str, operation: Operation) -> Result<(), Problem> {
        let (links, addresses) = (self.handle.link(), self.handle.address());
        let done = match operation {
            Operation::Create => {
                let kind = InfoKind::Other(kind.to_owned());
                let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
                    .name(self.name.clone())
                    .up();
                links.add(link.build()).execute().await
            }
            Operation::BringUp { index } => {
                links
                    .set(LinkUnspec::new_with_index(index).up().build())
                    .execute()
                    .await
            }
            Operation::AddAddress { index, address } => {
                addresses
                    .add(index, address, host_prefix(address))
                    .execute()
                    .await
            }
            Operation::RemoveAddress {
                index,
                address,
                prefix,
            } => {
                let mut request = addresses.add(index, address, prefix);
                let message = std::mem::take(request.message_mut());
                addresses.del(message).execute().await
            }
            Operation::Remove { index } => links.del(index).execute().await,
        };
        done.map_err(|error| problem(&error))
    }

    /// Resolves when something about the interface may have changed; `false` when the conversation has ended.
    pub(super) async fn changed(&mut self) -> bool {
        while let Some((message, _)) = self.changes.next().await {
            if self.concerns(&message.payload) {
                // One look is for all that have come so far.
                while let Some(Some(_)) = self.changes.next().now_or_never() {}
                return true;
            }
        }
        false
    }

    /// On a node interfaces come and go with every pod.
    fn concerns(&self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => Some(link.header.index) == self.index || is_named(link, &self.name),
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
            ) => Some(message.header.index) == self.index,
            // Notifications were lost.
            NetlinkPayload::Overrun(_) => true,
            _ => false,
        }
    }
}

/// The prefix that makes an address one host.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_named(link: &LinkMessage, name: &str) -> bool {
    let named =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(found) if found == name);
    link.attributes.iter().any(named)
}

fn kind(link: &LinkMessage) -> Option<String> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn local(message: &AddressMessage) -> Option<IpAddr> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// The system's error number, positive.
fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().saturating_abs()),
        _ => None,
    }
}

fn problem(error: &rtnetlink::Error) -> Problem {
    match code(error) {
        Some(EPERM) => Problem::NotPermitted,
        Some(EOPNOTSUPP) => Problem::NoDriver,
        Some(code) => Problem::Failed(io::Error::from_raw_os_error(code).to_string()),
        None => Problem::Failed(error.to_string()),
    }
}
