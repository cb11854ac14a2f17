//! Records what a kube-apiserver answers, into `tests/fixtures/kube-apiserver-MINOR`: `cargo e2e record [--kubernetes 1.X]`.
//!
//! The cluster is a throw-away one, so that the Secrets, tokens and keys in what is recorded mean nothing. Names of recordings are
//! the same for every version, because the tests that read them are.

mod requests;
mod seed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use apiserver_standin::{Answer, Client, Protocol};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::requests::{Request, watches};
use crate::cluster::Cluster;
use crate::scenarios::step;
use crate::tools::{Tool, Tools};
use crate::versions::{Version, Versions, module};

/// The endpoints of the apiserver need an address that is not of the loopback; this one is for documentation.
const FLAGS: [&str; 2] = [
    "--endpoint-reconciler-type=lease",
    "--advertise-address=192.0.2.10",
];

/// Into how many pages every ConfigMap of the cluster is cut.
const PAGES: usize = 6;

/// Records the chosen version.
pub(crate) fn record(versions: &Versions) -> anyhow::Result<()> {
    let wanted = [Tool::Etcd, Tool::KubeApiserver, Tool::KubeControllerManager];
    let tools = Tools::provide(versions, &wanted, None)?;
    if let Some(lack) = tools.lack(&wanted) {
        anyhow::bail!("{lack}");
    }
    let (version, scratch) = (&versions.chosen, tempfile::tempdir()?);
    let out = module().join(format!("../fixtures/kube-apiserver-{}", version.name()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut cluster = Cluster::start(&tools, scratch.path(), &FLAGS).await?;
        cluster.controllers(&[]).await?;
        step(format!("a cluster of Kubernetes {} is filled", version.release()));
        seed::fill(&cluster).await?;
        if out.is_dir() {
            std::fs::remove_dir_all(&out)?;
        }
        std::fs::create_dir_all(&out)?;
        let mut recorder = Recorder::new(&cluster, out.clone());
        recorder.all(&mut cluster).await?;
        recorder.finish(version)
    })?;
    println!("recorded {}", out.canonicalize()?.display());
    Ok(())
}

struct Recorder {
    client: Client,
    out: PathBuf,
    index: Vec<Value>,
}

impl Recorder {
    fn new(cluster: &Cluster, out: PathBuf) -> Self {
        Self {
            // Each request is on the wire as a client of HTTP/1.1 has it.
            client: cluster.direct().protocol(Protocol::Http1),
            out,
            index: Vec::new(),
        }
    }

    async fn all(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        step("lists, objects, pages, discovery");
        for request in requests::reads() {
            self.record(&request).await?;
        }
        self.pages().await?;

        step("watches, and what happens meanwhile");
        let list = cluster.read("/api/v1/namespaces/shop/configmaps").await?;
        let version = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a version")?;
        let requests = watches(version);
        let mut open = JoinSet::new();
        let opened = Arc::new(tokio::sync::Semaphore::new(0));
        for (number, request) in requests.iter().cloned().enumerate() {
            let (client, opened) = (self.client.clone(), opened.clone());
            open.spawn(
                async move { Ok::<_, anyhow::Error>((number, watch(&client, &request, &opened).await?)) },
            );
        }
        let count = u32::try_from(requests.len())?;
        let _all = opened.acquire_many(count).await?;
        seed::change(cluster).await?;
        let mut answers = Vec::new();
        while let Some(answer) = open.join_next().await {
            answers.push(answer??);
        }
        answers.sort_by_key(|(number, _)| *number);
        for (number, answer) in answers {
            self.keep(&requests[number], &answer)?;
        }

        step("the state after, a token, a compressed list, a watch from before the history");
        for request in requests::reads_after() {
            self.record(&request).await?;
        }
        self.token().await?;
        seed::fill_big(cluster).await?;
        for request in requests::reads_big() {
            self.record(&request).await?;
        }
        cluster.compact(version).await?;
        cluster.kill_apiserver().await?;
        cluster.start_apiserver().await?;
        self.record(&requests::too_old()).await?;
        Ok(())
    }

    /// Every ConfigMap in exactly [`PAGES`] pages.
    async fn pages(&mut self) -> anyhow::Result<()> {
        let all = self.client.get("/api/v1/configmaps").await.json();
        let count = all["items"].as_array().map_or(0, Vec::len);
        let limit = count.div_ceil(PAGES);
        let mut continuation = String::new();
        for number in 1..=PAGES {
            let name = format!("cm-page{number}.json");
            let path = format!("/api/v1/configmaps?limit={limit}{continuation}");
            let page = self
                .record(&Request::get(&name, &path, requests::JSON))
                .await?
                .json();
            let token = page["metadata"]["continue"].as_str().unwrap_or_default();
            ensure!(
                token.is_empty() == (number == PAGES),
                "{count} objects make no {PAGES} pages of {limit}"
            );
            continuation = format!("&continue={token}");
        }
        Ok(())
    }

    async fn token(&mut self) -> anyhow::Result<()> {
        let request = requests::token();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": null, "expirationSeconds": 3607},
        });
        let client = self.client.clone().header("content-type", "application/json");
        let answer = client
            .send(request.method, &request.path, body.to_string())
            .await?;
        self.keep(&request, &answer)
    }

    async fn record(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let answer = client_for(&self.client, request)
            .send(request.method, &request.path, "")
            .await
            .with_context(|| request.name.clone())?;
        self.keep(request, &answer)?;
        Ok(answer)
    }

    fn keep(&mut self, request: &Request, answer: &Answer) -> anyhow::Result<()> {
        let name = &request.name;
        std::fs::write(self.out.join(format!("{name}.body")), &answer.body)?;
        std::fs::write(self.out.join(format!("{name}.headers")), head(answer))?;
        self.index.push(request.entry());
        Ok(())
    }

    fn finish(&self, version: &Version) -> anyhow::Result<()> {
        let index = serde_json::to_string_pretty(&self.index)?;
        std::fs::write(self.out.join("index.json"), index + "\n")?;
        std::fs::write(self.out.join("README.md"), readme(version))?;
        check(&self.out, &self.index)
    }
}

/// A watch to its end; says when its headers are there.
async fn watch(
    client: &Client,
    request: &Request,
    opened: &tokio::sync::Semaphore,
) -> anyhow::Result<Answer> {
    let mut connection = client_for(client, request).connect().await?;
    let response = connection.open(request.method, &request.path, "").await?;
    opened.add_permits(1);
    Ok(apiserver_standin::read(response).await?)
}

fn client_for(client: &Client, request: &Request) -> Client {
    let mut client = client.clone().header("accept", request.accept);
    for (name, value) in request.headers {
        client = client.header(name, value);
    }
    client
}

/// As HTTP/1.1 has it.
fn head(answer: &Answer) -> String {
    let status = http_status(answer.status);
    let mut text = format!("HTTP/1.1 {} {status}\r\n", answer.status);
    for (name, value) in &answer.headers {
        let words: Vec<String> = name.as_str().split('-').map(capitalised).collect();
        text.push_str(&format!(
            "{}: {}\r\n",
            words.join("-"),
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text + "\r\n"
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn http_status(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        406 => "Not Acceptable",
        _ => "",
    }
}

/// What would make the recordings useless.
fn check(out: &Path, index: &[Value]) -> anyhow::Result<()> {
    for entry in index {
        let name = entry["name"].as_str().context("a name")?;
        let head = std::fs::read_to_string(out.join(format!("{name}.headers")))?;
        let body = std::fs::read(out.join(format!("{name}.body")))?;
        ensure!(!body.is_empty(), "{name} has no body");
        // The key set is no application/json.
        let is_refused = ["notfound", "unknown-resource", "refused", "jwks"]
            .iter()
            .any(|part| name.contains(part));
        ensure!(
            is_refused != head.starts_with("HTTP/1.1 20"),
            "{name}: {}",
            head.lines().next().unwrap_or_default()
        );
    }
    Ok(())
}

fn readme(version: &Version) -> String {
    let (minor, release) = (version.name(), version.release());
    format!(
        "# Recorded kube-apiserver {minor} answers

Recorded by `cargo e2e record --kubernetes {minor}` from a throw-away kube-apiserver {release} (its names, tokens and passwords mean nothing).
`index.json` lists each recording: request method, path, `Accept`, further request headers, and a note.
`NAME.headers` and `NAME.body` are the answer's headers and body as they were on the wire, without chunking; where the body was
compressed, it is kept compressed.

The oracle: apply `cm-watch.{{json,proto}}` to `cm-list-ns.{{json,proto}}` and the result must equal
`cm-list-ns-after.{{json,proto}}`, item for item; likewise `cm-watch-label` on `cm-list-label`, `cm-watchlist` (plain and gzip) from
nothing, and `gauges-watchlist` against `gauges-list-after`. Pages `cm-page1..{PAGES}` together must equal `cm-list-all`.
"
    )
}
