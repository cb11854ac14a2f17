//! One TCP connection to a server: straight or through a proxy, and over a certain interface or any.
//!
//! Knows nothing of TLS, time limits and what is thought of the server.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};

use super::cause::Cause;
use super::endpoint::Endpoint;
use super::happy_eyeballs;
use super::proxy::{Secret, TunnelError, UpstreamProxy};

/// The way that a connection takes.
#[derive(Debug, Clone, Copy)]
pub struct Route<'r> {
    /// The server.
    pub(super) endpoint: &'r Endpoint,
    /// What lies between.
    pub(super) proxy: Option<&'r UpstreamProxy>,
    /// The interface to go out by; `None`: as the node's routes say.
    interface: Option<&'r str>,
}

/// Why there is no connection.
pub(super) enum RouteError {
    /// None to the server itself.
    Server(Cause, io::Error),
    /// None to the proxy.
    Proxy(Cause, io::Error),
    /// The proxy does not lead to the server.
    Tunnel(TunnelError),
}

impl<'r> Route<'r> {
    /// The way to a server: by `proxy` if that serves it, by `interface` if there is one.
    pub fn new(endpoint: &'r Endpoint, proxy: Option<&'r UpstreamProxy>, interface: Option<&'r str>) -> Self {
        let proxy = proxy.filter(|proxy| proxy.serves(&endpoint.host, endpoint.port));
        Self {
            endpoint,
            proxy,
            interface,
        }
    }

    /// A socket that leads to the server. `pair` is what the proxy's credentials give. `bound` hears whether a socket
    /// could be bound to the interface.
    pub(super) async fn connect(
        self,
        pair: Option<Secret>,
        bound: impl Fn(Result<(), &io::Error>),
    ) -> Result<TcpStream, RouteError> {
        let Some(proxy) = self.proxy else {
            let Endpoint { host, port, .. } = self.endpoint;
            let tcp = self.tcp(host, *port, bound).await;
            return tcp.map_err(|(cause, error)| RouteError::Server(cause, error));
        };
        let tcp = self.tcp(&proxy.host, proxy.port, bound).await;
        let tcp = tcp.map_err(|(cause, error)| RouteError::Proxy(cause.of_proxy(), error))?;
        let led = proxy.lead(tcp, self.endpoint, pair).await;
        led.map_err(RouteError::Tunnel)
    }

    /// A connection to a host, which is looked up for every one: what the name leads to may have changed.
    async fn tcp(
        self,
        host: &str,
        port: u16,
        bound: impl Fn(Result<(), &io::Error>),
    ) -> Result<TcpStream, (Cause, io::Error)> {
        let connected = self.raced(host, port, bound).await;
        // A resolver that finds no descriptor says that it does not know the name: what is the matter a socket says.
        connected.map_err(|said| match TcpSocket::new_v4() {
            Ok(_) => said,
            Err(error) => (Cause::of_connecting(&error), error),
        })
    }

    async fn raced(
        self,
        host: &str,
        port: u16,
        bound: impl Fn(Result<(), &io::Error>),
    ) -> Result<TcpStream, (Cause, io::Error)> {
        let addresses = happy_eyeballs::resolve(host, port).await;
        let addresses = addresses.map_err(|error| (Cause::Name, error))?;
        let connect = async |address: SocketAddr| {
            let connected = match self.interface {
                None => TcpStream::connect(address).await,
                Some(interface) => {
                    let socket = bound_to(address, interface);
                    bound(socket.as_ref().map(drop));
                    socket?.connect(address).await
                }
            };
            connected.map_err(|error| told_apart(address, error))
        };
        let connected = happy_eyeballs::race(addresses, connect).await;
        connected.map_err(|error| (Cause::of_connecting(&error), error))
    }
}

/// EADDRNOTAVAIL means that no port is left, on IPv6 also that the node has no address on that way: then the cloud is away.
fn told_apart(address: SocketAddr, error: io::Error) -> io::Error {
    let code = Errno::ADDRNOTAVAIL.raw_os_error();
    if address.is_ipv6() && error.raw_os_error() == Some(code) {
        return io::Error::new(error.kind(), "no address or port on this way");
    }
    error
}

/// A socket for this address that leaves by an interface.
fn bound_to(address: SocketAddr, interface: &str) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind_device(Some(interface.as_bytes())).map_err(unusable)?;
    Ok(socket)
}

/// Why a socket could not be bound to an interface, in words that help.
fn unusable(error: io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "a kernel before 5.7 lets only processes with CAP_NET_RAW choose an interface: give it to edgehold"
        }
        _ if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => "there is no such interface",
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}
