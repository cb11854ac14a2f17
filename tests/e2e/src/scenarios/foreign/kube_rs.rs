//! kube-rs, as a controller in Rust uses it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail, ensure};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, PostParams};
use kube::config::AuthInfo;
use kube::runtime::watcher::{self, Event};
use kube::{Config, Error, ResourceExt as _};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::process::until;

/// A client and what its watchers have seen.
pub(super) struct Client {
    config_maps: Api<ConfigMap>,
    secrets: Api<Secret>,
    watchers: Vec<Arc<Mutex<Seen>>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// What the watcher holds.
    held: BTreeSet<String>,
    /// What the list under way has.
    coming: BTreeSet<String>,
    deleted: Vec<String>,
    lists: u32,
}

impl Client {
    pub(super) async fn new(cluster: &Cluster, node: &Node, token: &Path) -> anyhow::Result<Self> {
        let mut config = Config::new(format!("https://{}", node.address).parse()?);
        config.root_cert_file = Some(cluster.dir().join("ca.crt"));
        config.auth_info = AuthInfo {
            token_file: Some(token.display().to_string()),
            ..AuthInfo::default()
        };
        let watched: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config.clone())?, "foreign");
        // By default it asks again for minutes when it is told 503.
        config.default_retry = false;
        let client = kube::Client::try_from(config)?;
        // By a list and a watch, which is the default, and by a watch-list.
        let mut watchers = Vec::new();
        for config in [
            watcher::Config::default(),
            watcher::Config::default().streaming_lists(),
        ] {
            let seen = Arc::new(Mutex::new(Seen::default()));
            tokio::spawn(watch(watched.clone(), config, Arc::clone(&seen)));
            watchers.push(seen);
        }
        Ok(Self {
            config_maps: Api::namespaced(client.clone(), "foreign"),
            secrets: Api::namespaced(client, "foreign"),
            watchers,
        })
    }

    pub(super) async fn online(&self, name: &str) -> anyhow::Result<()> {
        self.lists(name).await?;
        refused(self.secrets.list(&ListParams::default()).await, &[403])?;
        self.sees(name).await
    }

    pub(super) async fn offline(&self, name: &str) -> anyhow::Result<()> {
        self.lists(name).await?;
        self.config_maps.get(name).await.context("get offline")?;
        refused(self.secrets.list(&ListParams::default()).await, &[403, 503])?;
        let new: ConfigMap = serde_json::from_str(r#"{"metadata":{"name":"new"}}"#)?;
        refused(
            self.config_maps.create(&PostParams::default(), &new).await,
            &[503],
        )?;
        for seen in &self.watchers {
            let seen = seen.lock().expect("what was seen");
            ensure!(
                seen.held.contains(name) && seen.deleted.is_empty(),
                "a watcher has lost something: {seen:?}"
            );
        }
        Ok(())
    }

    async fn lists(&self, name: &str) -> anyhow::Result<()> {
        let list = self
            .config_maps
            .list(&ListParams::default())
            .await
            .context("list")?;
        ensure!(
            list.iter().any(|item| item.name_any() == name),
            "kube-rs lists no {name}: {list:?}"
        );
        Ok(())
    }

    /// Waits until each watcher has it.
    pub(super) async fn sees(&self, name: &str) -> anyhow::Result<()> {
        until(&format!("kube-rs sees {name}"), 120, async || {
            for seen in &self.watchers {
                let seen = seen.lock().expect("what was seen");
                ensure!(seen.deleted.is_empty(), "deletions were invented: {seen:?}");
                if !seen.held.contains(name) {
                    return Ok(Err(format!("{seen:?}")));
                }
            }
            Ok(Ok(()))
        })
        .await
    }
}

async fn watch(api: Api<ConfigMap>, config: watcher::Config, seen: Arc<Mutex<Seen>>) {
    let mut events = std::pin::pin!(watcher::watcher(api, config));
    loop {
        // The watcher goes on after an error.
        let Ok(Some(event)) = events.try_next().await else {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            continue;
        };
        let mut seen = seen.lock().expect("what was seen");
        match event {
            Event::Init => {
                seen.lists += 1;
                seen.coming.clear();
            }
            Event::InitApply(item) => {
                seen.coming.insert(item.name_any());
            }
            Event::InitDone => seen.held = std::mem::take(&mut seen.coming),
            Event::Apply(item) => {
                seen.held.insert(item.name_any());
            }
            Event::Delete(item) => seen.deleted.push(item.name_any()),
        }
    }
}

/// An error of the API with one of these codes.
fn refused<T>(outcome: Result<T, Error>, codes: &[u16]) -> anyhow::Result<()> {
    match outcome {
        Err(Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        Err(error) => bail!("expected {codes:?}, got {error}"),
        Ok(_) => bail!("expected {codes:?}, got an answer"),
    }
}
