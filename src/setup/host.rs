//! The machine beyond its files: who runs this, systemd, ports, and whether edgehold answers.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;

#[cfg(feature = "dummy-interface")]
use crate::node::interface::{self, DUMMY, InterfaceConfig};
use crate::runtime::clock;
#[cfg(feature = "dummy-interface")]
use crate::runtime::tasks::Tasks;
use crate::tls::{Alpn, ClientTls, Roots, ServerName, TrustedTime};

use super::paths;
use super::step::SystemdAction;

/// How long a start may take: the store of a large node is read first.
const READY_WITHIN: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(200);
const TRY_FOR: Duration = Duration::from_secs(2);

/// Who looks after edgehold's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// systemd, and edgehold runs.
    Active,
    /// systemd, and edgehold does not run.
    Inactive,
    /// This machine has no systemd.
    None,
    /// A scratch root: nothing runs in it.
    Scratch,
}

/// What a port of the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Nobody listens there.
    Free,
    /// Somebody listens there.
    Taken,
}

/// The machine beyond its files.
pub trait Host {
    /// Whether this process is root.
    fn is_root(&self) -> bool;
    /// Who looks after edgehold's process.
    fn manager(&self) -> Manager;
    /// Whether somebody listens at this address.
    fn port(&self, address: SocketAddr) -> Port;
    /// The program that runs now.
    fn program(&self) -> Option<PathBuf>;
    /// The time.
    fn now(&self) -> SystemTime;
    /// Tells systemd; the error is what it said.
    ///
    /// # Errors
    /// It could not be run, or refused.
    fn systemd(&mut self, action: SystemdAction) -> Result<(), String>;
    /// Removes a dummy interface, or only these addresses if it has others; it may be gone.
    ///
    /// # Errors
    /// What the kernel said.
    fn remove_interface(&mut self, name: &str, addresses: &[IpAddr]) -> Result<(), String>;
    /// Waits until a TLS handshake at `address` succeeds for somebody who trusts `ca` (PEM) and looks for `name`.
    ///
    /// # Errors
    /// It did not within a minute: the last failure.
    fn await_ready(&mut self, address: SocketAddr, name: IpAddr, ca: &str) -> Result<(), String>;
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct Running;

impl Host for Running {
    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn manager(&self) -> Manager {
        if !Path::new(paths::SYSTEMD).is_dir() {
            return Manager::None;
        }
        let active = Command::new("systemctl")
            .args(["is-active", "--quiet", "edgehold.service"])
            .status();
        match active {
            Ok(status) if status.success() => Manager::Active,
            Ok(_) => Manager::Inactive,
            Err(_) => Manager::None,
        }
    }

    fn port(&self, address: SocketAddr) -> Port {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Port::Taken,
            // An address that is not there yet is no port in use.
            _ => Port::Free,
        }
    }

    fn program(&self) -> Option<PathBuf> {
        std::env::current_exe().ok()
    }

    fn now(&self) -> SystemTime {
        clock::wall()
    }

    fn systemd(&mut self, action: SystemdAction) -> Result<(), String> {
        let output = Command::new("systemctl").args(action.arguments()).output();
        let output = output.map_err(|error| format!("systemctl cannot be run: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("systemctl {}: {said}", action.arguments().join(" ")))
    }

    #[cfg(feature = "dummy-interface")]
    fn remove_interface(&mut self, name: &str, addresses: &[IpAddr]) -> Result<(), String> {
        let interface = InterfaceConfig {
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            kind: DUMMY,
        };
        let removed = runtime()?.block_on(interface::remove(&interface, &Tasks::new()));
        removed.map_err(|problem| problem.to_string())
    }

    #[cfg(not(feature = "dummy-interface"))]
    fn remove_interface(&mut self, name: &str, _: &[IpAddr]) -> Result<(), String> {
        Err(format!(
            "this edgehold was built without interfaces: ip link delete {name}"
        ))
    }

    fn await_ready(&mut self, address: SocketAddr, name: IpAddr, ca: &str) -> Result<(), String> {
        let roots =
            Roots::parse(ca.as_bytes(), Path::new(paths::LOCAL_CA)).map_err(|error| error.to_string())?;
        let tls = ClientTls::new(Some(&roots), None, Alpn::Http1, &TrustedTime::new())
            .map_err(|error| error.to_string())?;
        runtime()?.block_on(async {
            let deadline = tokio::time::Instant::now() + READY_WITHIN;
            loop {
                match tokio::time::timeout(TRY_FOR, handshake(&tls, address, name)).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(said)) if tokio::time::Instant::now() >= deadline => return Err(said),
                    Err(_) if tokio::time::Instant::now() >= deadline => {
                        return Err(format!("no answer from {address}"));
                    }
                    Ok(Err(_)) | Err(_) => tokio::time::sleep(TRY_EVERY).await,
                }
            }
        })
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())
}

async fn handshake(tls: &ClientTls, address: SocketAddr, name: IpAddr) -> Result<(), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    tls.connect(&ServerName::from(name), stream)
        .await
        .map_err(|error| error.to_string())?;
    Ok(())
}

/// A scratch root: nothing runs, and what runs here does not count.
#[derive(Clone, Copy, Debug)]
pub struct Scratch;

impl Host for Scratch {
    fn is_root(&self) -> bool {
        true
    }

    fn manager(&self) -> Manager {
        Manager::Scratch
    }

    fn port(&self, _: SocketAddr) -> Port {
        Port::Free
    }

    fn program(&self) -> Option<PathBuf> {
        None
    }

    fn now(&self) -> SystemTime {
        clock::wall()
    }

    fn systemd(&mut self, _: SystemdAction) -> Result<(), String> {
        Ok(())
    }

    fn remove_interface(&mut self, _: &str, _: &[IpAddr]) -> Result<(), String> {
        Ok(())
    }

    fn await_ready(&mut self, _: SocketAddr, _: IpAddr, _: &str) -> Result<(), String> {
        Ok(())
    }
}
