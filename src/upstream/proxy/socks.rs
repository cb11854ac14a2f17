//! One way through a SOCKS 5 proxy (RFC 1928, RFC 1929).

use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

use super::super::endpoint::Endpoint;
use super::credentials::Secret;
use super::tunnel::TunnelError;

/// Makes the proxy at the other end of `tcp` connect to the server, whose name it looks up, and gives the socket back.
pub(super) async fn lead(
    tcp: TcpStream,
    server: &Endpoint,
    pair: Option<Secret>,
) -> Result<TcpStream, TunnelError> {
    let Endpoint { host, port, .. } = server;
    let target = match host.parse::<IpAddr>() {
        Ok(address) => TargetAddr::Ip((address, *port).into()),
        Err(_) => TargetAddr::Domain(host.as_str().into(), *port),
    };
    let led = match pair.as_ref().map(Secret::parts) {
        None => Socks5Stream::connect_with_socket(tcp, target).await,
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(tcp, target, user, password).await
        }
    };
    led.map(Socks5Stream::into_inner).map_err(TunnelError::Socks)
}
