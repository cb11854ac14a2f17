//! `admin`: where edgehold tells how it is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::{Fault, quoted};
use super::object::{Field, Object};
use super::{address, text};

/// Where the unit's `RuntimeDirectory` is.
const DEFAULT_SOCKET: &str = "/run/edgehold/admin.sock";

const FIX: &str = "write it like unix:/run/edgehold/admin.sock or 127.0.0.1:51004";

/// `admin`: health, metrics and status, for whoever may reach the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// A file with a token that every request has to show.
    pub token_file: Option<PathBuf>,
}

/// A Unix socket, or a port of the loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Absolute path of a socket.
    Unix(PathBuf),
    /// A loopback address; port 0 lets the system choose.
    Tcp(SocketAddr),
}

/// As it stands in the configuration.
impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// As in the configuration, and with `http://` before an address, as people write it.
impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("http://").unwrap_or(text);
        parse(text.trim_end_matches('/')).map_err(|fault| format!("{}; {}", fault.wrong, fault.fix))
    }
}

/// `own` are the addresses that clients connect to.
pub(super) fn read(admin: &mut Object<'_>, own: &[SocketAddr]) -> Admin {
    let default = AdminAddress::Unix(PathBuf::from(DEFAULT_SOCKET));
    Admin {
        address: admin.or("address", default, |field| {
            let address = field.parse(parse)?;
            if let AdminAddress::Tcp(tcp) = &address
                && tcp.port() != 0
                && own.contains(tcp)
            {
                field.refuse(Fault::new("is one of listen.addresses", "write another port"));
            }
            Some(address)
        }),
        token_file: admin.optional("tokenFile", Field::path),
    }
}

/// The loopback or a Unix socket: whoever reaches it can read what the clients of this node ask for.
fn parse(text: &str) -> Result<AdminAddress, Fault> {
    if let Some(socket) = text.strip_prefix("unix:") {
        return text::path(socket).map(AdminAddress::Unix);
    }
    let address = address::listen(text).map_err(|fault| Fault::new(fault.wrong, FIX))?;
    if address.ip().is_loopback() {
        return Ok(AdminAddress::Tcp(address));
    }
    Err(Fault::new(
        format!("{} is not on the loopback", quoted(text)),
        FIX,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        let unix = |path: &str| AdminAddress::Unix(PathBuf::from(path));
        for (text, expected) in [
            ("unix:/run/edgehold/admin.sock", unix("/run/edgehold/admin.sock")),
            (
                "127.0.0.1:51004",
                AdminAddress::Tcp("127.0.0.1:51004".parse().unwrap()),
            ),
            (
                "http://127.0.0.1:51004/",
                AdminAddress::Tcp("127.0.0.1:51004".parse().unwrap()),
            ),
            ("http://[::1]:9", AdminAddress::Tcp("[::1]:9".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<AdminAddress>(), Ok(expected), "{text}");
        }
        for text in ["0.0.0.0:51004", "unix:admin.sock", "localhost", "10.0.0.1:1", ""] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }
}
