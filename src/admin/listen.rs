//! The socket of the admin listener.
//!
//! A Unix socket is made under another name, given its mode and renamed, so that nobody can connect to it before; what an
//! earlier run left is replaced, what another process listens on is not.
#![allow(clippy::disallowed_methods)] // the file of a socket holds nothing

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::AdminAddress;

/// Only edgehold's own user, and root.
const MODE: u32 = 0o600;

/// The bytes of one connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A socket that takes connections. A Unix socket's file goes with it.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener, Socket),
    /// A port of the loopback.
    Tcp(TcpListener),
}

/// The file of a socket, removed when this is dropped.
#[derive(Debug)]
pub struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _already_gone = fs::remove_file(&self.0);
    }
}

/// A listener and where it is.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: Listener,
    /// With the port that the system chose.
    pub address: AdminAddress,
}

/// Listens there.
///
/// # Errors
/// The address is in use, its directory is missing, or it is not allowed.
pub async fn bind(address: &AdminAddress) -> io::Result<Bound> {
    match address {
        AdminAddress::Tcp(wanted) => {
            let listener = TcpListener::bind(wanted).await?;
            let address = AdminAddress::Tcp(listener.local_addr()?);
            Ok(Bound {
                listener: Listener::Tcp(listener),
                address,
            })
        }
        AdminAddress::Unix(path) => Ok(Bound {
            listener: unix(path)?,
            address: address.clone(),
        }),
    }
}

fn unix(path: &Path) -> io::Result<Listener> {
    match StdStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let made = path.with_extension(format!("{}.new", std::process::id()));
    let _left_behind = fs::remove_file(&made);
    let listener = UnixListener::bind(&made)?;
    let in_place =
        fs::set_permissions(&made, Permissions::from_mode(MODE)).and_then(|()| fs::rename(&made, path));
    if let Err(error) = in_place {
        let _not_there = fs::remove_file(&made);
        return Err(error);
    }
    Ok(Listener::Unix(listener, Socket(path.to_owned())))
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_replaces_what_was_left_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let address = AdminAddress::Unix(path.clone());
        let first = bind(&address).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let again = bind(&address).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse, "{again}");
        // As after kill -9: the file is there, and nobody listens.
        let Listener::Unix(listener, socket) = first.listener else {
            panic!("a Unix socket was asked for")
        };
        drop(listener);
        std::mem::forget(socket);
        assert!(path.exists());
        drop(bind(&address).await.unwrap());
        assert!(!path.exists());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let address = AdminAddress::Unix(dir.path().join("none/admin.sock"));
        let error = bind(&address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
