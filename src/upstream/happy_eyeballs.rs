//! The addresses of a server, raced: a family that does not work costs a quarter of a second, not a time-out (RFC 8305).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

/// How long one attempt is alone before the next address is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// The addresses of a host name, looked up now, or the address that it is.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    Ok(interleaved(tokio::net::lookup_host((host, port)).await?))
}

/// The families in turn, beginning with that of the first address; the resolver's order within each (RFC 8305
/// section 4).
fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    let v6_first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = all.into_iter().partition(|a| a.is_ipv6() == v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

/// The first connection that comes about; the other attempts are dropped. Each address is tried when the one before it
/// has failed, or has taken [`STAGGER`].
///
/// # Errors
/// The last failure, when every address has failed; or there was none.
pub(super) async fn race<T, C, F>(addresses: Vec<SocketAddr>, connect: C) -> io::Result<T>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    staggered(addresses, STAGGER, none, connect).await
}

/// The same for ways of any kind, each alone for `stagger`; `none` is the failure when there is nothing to try.
pub(super) async fn staggered<A, T, E, C, F>(
    ways: Vec<A>,
    stagger: Duration,
    none: E,
    connect: C,
) -> Result<T, E>
where
    C: Fn(A) -> F,
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = ways.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = none;
    loop {
        let next = waiting.next();
        let more = next.is_some();
        running.extend(next.map(&connect));
        if running.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            Some(attempt) = running.next() => match attempt {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(stagger), if more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:1").parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_the_resolvers_order_is_kept_within_each() {
        let given = ["[::1]", "[::2]", "1.1.1.1", "[::1]", "[::3]", "2.2.2.2"].map(address);
        let mixed = ["[::1]", "1.1.1.1", "[::2]", "2.2.2.2", "[::3]"].map(address);
        assert_eq!(interleaved(given), mixed);
        let v4_first = ["1.1.1.1", "[::1]"].map(address);
        assert_eq!(interleaved(v4_first), v4_first);
    }

    /// The last octet says what happens: 0 hangs, 1 is refused at once, more connects after as many tenths of a second.
    async fn scripted(address: SocketAddr) -> io::Result<SocketAddr> {
        let IpAddr::V4(v4) = address.ip() else {
            unreachable!()
        };
        match v4.octets()[3] {
            0 => std::future::pending().await,
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            tenths => {
                tokio::time::sleep(Duration::from_millis(100) * u32::from(tenths)).await;
                Ok(address)
            }
        }
    }

    async fn raced(addresses: &[&str]) -> (Option<String>, u128) {
        let started = clock::now();
        let won = race(addresses.iter().map(|a| address(a)).collect(), scripted).await;
        (
            won.ok().map(|won| won.ip().to_string()),
            (clock::now() - started).as_millis(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_address_costs_a_quarter_second_and_a_refusing_one_nothing() {
        for (addresses, winner, millis) in [
            (vec!["1.1.1.2"], Some("1.1.1.2"), 200),
            (vec!["1.1.1.0", "1.1.1.2"], Some("1.1.1.2"), 250 + 200),
            (vec!["1.1.1.1", "1.1.1.2"], Some("1.1.1.2"), 200),
            (vec!["1.1.1.0", "1.1.1.0", "1.1.1.2"], Some("1.1.1.2"), 500 + 200),
            // A slow one is not given up for the next.
            (vec!["1.1.1.4", "1.1.1.9"], Some("1.1.1.4"), 400),
            (vec!["1.1.1.9", "1.1.1.3"], Some("1.1.1.3"), 250 + 300),
            (vec!["1.1.1.1", "2.1.1.1"], None, 0),
            (vec![], None, 0),
        ] {
            assert_eq!(
                raced(&addresses).await,
                (winner.map(str::to_owned), millis),
                "{addresses:?}"
            );
        }
    }
}
