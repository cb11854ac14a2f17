//! One listening socket.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait for `accept`, as tokio has it.
const BACKLOG: i32 = 1024;

/// Listens on `address`. If the node does not have that address yet (a dummy interface that is still to be made, an
/// uplink that is down), the socket is bound all the same (`IP_FREEBIND`, ip(7)) and takes connections from the moment
/// the address appears, also after it went and came back. So nothing has to try again, no other address waits, and a
/// port that is taken is an error at once, whether the address is there or not.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match try_listen(address, Existence::Required) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let listener = try_listen(address, Existence::Expected)?;
            tracing::warn!(%address, "this node does not have the address yet: served as soon as it does");
            Ok(listener)
        }
        result => result,
    }
}

/// Whether the address must be there when the socket is bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existence {
    Required,
    Expected,
}

fn try_listen(address: SocketAddr, existence: Existence) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // As tokio does: a restart must not wait for the connections of before.
    socket.set_reuse_address(true)?;
    if existence == Existence::Expected {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_is_listened_on_and_one_in_use_is_an_error() {
        for missing in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let first = listen(missing.parse().unwrap()).unwrap();
            let address = first.local_addr().unwrap();
            assert_ne!(address.port(), 0);
            let again = listen(address).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AddrInUse, "{missing}");
        }
        let there = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = listen(there.local_addr().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
