//! What would keep `run` from starting, or from keeping anything: for `edgehold check`.
//!
//! Asks the same functions as [`App::bind`](super::App::bind) does, takes nothing, and leaves everything as it was. What the edgehold
//! that runs here already has is its own.

use std::io;

use crate::admin::client::{self, AskError};
use crate::admin::{Status, read_token};
use crate::config::{AdminAddress, CacheStore, Config};
use crate::server::{ListenError, Listener};
use crate::store::{self, StoreError};

use super::storage;

/// What a start would come to.
#[derive(Debug, Default)]
pub(crate) struct Rehearsal {
    /// The edgehold that runs with this configuration's admin address.
    pub(crate) running: Option<Status>,
    /// `run` would fail, or keep nothing for the time without the cloud.
    pub(crate) faults: Vec<String>,
    /// What cannot be known, or does less harm.
    pub(crate) doubts: Vec<String>,
}

/// Who is at the admin address.
enum Present {
    /// This edgehold.
    Edgehold(Box<Status>),
    /// Somebody who tells this user nothing, or has this cache: an edgehold, most likely.
    Silent,
    /// Nobody.
    Nobody,
}

/// Looks. Needs a tokio runtime, and blocks it for a moment.
pub(crate) async fn rehearse(config: &Config) -> Rehearsal {
    let mut rehearsal = Rehearsal::default();
    let present = present(config).await;
    for address in &config.listen.addresses {
        let served = |status: &Status| status.listen.contains(&address.to_string());
        match (Listener::try_address(*address), &present) {
            (Ok(()), _) => {}
            (Err(_), Present::Edgehold(status)) if served(status) => {}
            (Err(error), Present::Silent) if is_in_use(&error) => rehearsal.doubts.push(format!(
                "listen.addresses: {address} is in use, most likely by an edgehold that runs here and does not answer at {}"
                , config.admin.address
            )),
            (Err(error), _) => rehearsal.faults.push(format!(
                "listen.addresses: {error}: {}; {}",
                error.source,
                advice(&error)
            )),
        }
    }
    rehearsal.cache(config, &present);
    rehearsal.admin(config, &present).await;
    if let Present::Edgehold(status) = present {
        rehearsal.running = Some(*status);
    }
    rehearsal
}

impl Rehearsal {
    fn cache(&mut self, config: &Config, present: &Present) {
        if config.cache.store == CacheStore::Memory {
            return;
        }
        // Credentials are there for the process that systemd starts.
        match storage::keys_of(&config.cache) {
            Err(error @ storage::KeyFault::NoCredentials(_)) => {
                self.doubts.push(format!("cache.encryption: {error}"))
            }
            Err(error) => self.faults.push(format!(
                "cache.encryption: {error}; without its key nothing is kept on disk"
            )),
            Ok(_) => {}
        }
        match store::examine(&config.cache.path) {
            Ok(()) => {}
            Err(StoreError::Locked { .. }) if matches!(present, Present::Edgehold(_)) => {}
            Err(error @ StoreError::Locked { .. }) if matches!(present, Present::Silent) => {
                self.doubts.push(format!("cache.path: {error}"));
            }
            Err(error @ StoreError::Io { .. }) => self.faults.push(format!(
                "cache.path: {error}; what is read would be in memory only, and gone at a restart"
            )),
            Err(error) => self.faults.push(format!("cache.path: {error}")),
        }
    }

    async fn admin(&mut self, config: &Config, present: &Present) {
        let address = &config.admin.address;
        match address {
            AdminAddress::Tcp(tcp) if matches!(present, Present::Nobody) => {
                if let Err(error) = tokio::net::TcpListener::bind(tcp).await {
                    self.faults
                        .push(format!("admin.address: cannot listen on {tcp}: {error}"));
                }
            }
            AdminAddress::Tcp(_) => {}
            AdminAddress::Unix(path) => {
                if path.parent().is_some_and(|dir| !dir.is_dir()) {
                    self.doubts.push(format!(
                        "admin.address: {}: its directory is not there; systemd makes it (RuntimeDirectory=edgehold), else `edgehold \
                         status` and monitoring get no answer",
                        path.display()
                    ));
                }
            }
        }
        if let Some(path) = &config.admin.token_file
            && let Err(error) = read_token(path)
        {
            self.doubts.push(format!(
                "admin.tokenFile: {error}: nobody may ask how edgehold is"
            ));
        }
    }
}

async fn present(config: &Config) -> Present {
    let token = config
        .admin
        .token_file
        .as_deref()
        .and_then(|path| read_token(path).ok());
    match client::get(&config.admin.address, "/status", token.as_deref()).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(status) => Present::Edgehold(Box::new(status)),
            Err(_) => Present::Silent,
        },
        Err(AskError::Away { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Present::Silent
        }
        Err(AskError::Refused { .. }) => Present::Silent,
        // One whose admin listener could not be had still holds its cache.
        Err(AskError::Away { .. } | AskError::Broken { .. }) => match store::examine(&config.cache.path) {
            Err(StoreError::Locked { .. }) if config.cache.store == CacheStore::File => Present::Silent,
            _ => Present::Nobody,
        },
    }
}

fn is_in_use(error: &ListenError) -> bool {
    error.source.kind() == io::ErrorKind::AddrInUse
}

fn advice(error: &ListenError) -> String {
    let port = error.address.port();
    match error.source.kind() {
        io::ErrorKind::AddrInUse => format!("`ss -ltnp 'sport = :{port}'` says who has it"),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root, or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => "name an address of this node".to_owned(),
    }
}
