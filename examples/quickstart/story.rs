//! The story: what edgehold does while the cloud is there, while it is not, and when it comes back.

use std::time::Duration;

use anyhow::Context;
use apiserver_standin::Answer;
use bytes::Bytes;

use super::lab::{Lab, config_map, pod};
use super::teller::{Teller, Watch, json, names, text};

const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
const NODE: &str = "/api/v1/nodes/edge-1";
const WEB: &str = "/api/v1/namespaces/shop/configmaps/web";
const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

/// Long enough that the age of what is cached shows: it is told in whole seconds.
const SILENCE: Duration = Duration::from_millis(1100);

/// What the clients were told while the cloud could be reached.
struct Online {
    watch: Watch,
    node: Bytes,
    config_maps: Bytes,
}

/// Tells the whole story; fails at the first step that is not true. edgehold runs on afterwards, online.
pub(crate) async fn tell(lab: &mut Lab, teller: &mut Teller) -> anyhow::Result<()> {
    start(lab, teller).await?;
    let mut online = online(lab, teller).await?;
    cached(lab, teller).await?;
    cut(lab, teller, &mut online.watch).await?;
    answered(lab, teller, &online).await?;
    refused(lab, teller).await?;
    nobody_else(lab, teller).await?;
    let position = back(lab, teller, &mut online.watch).await?;
    let mut watch = restarted(lab, teller, &mut online.watch, &position).await?;
    back_again(lab, teller, &mut watch).await?;
    teller.summary()
}

async fn start(lab: &mut Lab, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("A cloud and a node")?;
    teller.say("A stand-in apiserver is the cloud; edgehold runs on the node, with this configuration:")?;
    let dir = lab.dir().display().to_string();
    for line in lab.config().lines().skip(2) {
        teller.line(&format!("     {}", line.replace(&dir, "$DIR")))?;
    }
    teller.say(&format!("where $DIR is {dir}."))?;
    lab.start().await?;
    let address = lab.address()?;
    teller.proof(&format!("edgehold listens on {address}"))
}

async fn online(lab: &Lab, teller: &mut Teller) -> anyhow::Result<Online> {
    teller.step("Online: every client speaks with its own identity, edgehold passes on and records")?;
    let (kubelet, web) = (lab.kubelet()?, lab.pod()?);
    let pods = teller.get(&kubelet, PODS, 200).await?;
    live(teller, &pods)?;
    teller.equal("the pods of the node", names(&pods)?, vec!["web-0".to_owned()])?;
    teller.proof("web-0, as the apiserver sent it")?;
    let target = format!(
        "{PODS}&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = teller.watch(&kubelet, &target).await?;
    teller.event(&mut watch, "ADDED", Some("web-0")).await?;
    teller.event(&mut watch, "BOOKMARK", None).await?;
    lab.cloud.put(pod("web-1", "edge-1"));
    teller.event(&mut watch, "ADDED", Some("web-1")).await?;
    let node = teller.get(&kubelet, NODE, 200).await?;
    let map = teller.get(&kubelet, WEB, 200).await?;
    teller.equal("the ConfigMap's data", menu(&map)?, "tea, coffee".to_owned())?;
    let config_maps = teller.get(&web, CONFIG_MAPS, 200).await?;
    teller.equal(
        "the ConfigMaps",
        names(&config_maps)?,
        vec!["prices".to_owned(), "web".to_owned()],
    )?;
    let seen = lab
        .cloud
        .wait_for_within(SILENCE, |seen| seen.path() == CONFIG_MAPS)
        .await
        .context("expected the pod's request in the cloud, it did not arrive")?;
    let user = seen.user.unwrap_or_default();
    teller.equal(
        "the user in the cloud",
        user.as_str(),
        "system:serviceaccount:shop:web",
    )?;
    teller.equal("the certificate in the cloud", seen.peer_cn, None)?;
    teller.proof(&format!("for the cloud this was {user}, by its token alone"))?;
    Ok(Online {
        watch,
        node: node.body,
        config_maps: config_maps.body,
    })
}

async fn cached(lab: &Lab, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("What is cached now, for each client apart")?;
    lab.running()?.settle().await;
    let kept = lab.running()?.proxy().cache().logs();
    for log in &kept {
        teller.line(&format!(
            "   {:>6} bytes  {}  {}",
            log.bytes, log.id.owner, log.id.name
        ))?;
    }
    let owners = |start: &str| kept.iter().filter(|log| log.id.owner.starts_with(start)).count();
    let enough = owners("cn:system:node:edge-1") >= 2 && owners("sa:shop/web") >= 1;
    let came = format!("{kept:?}");
    teller.holds(
        enough,
        "the cache",
        "pods and objects of the kubelet, ConfigMaps of the pod",
        &came,
    )
}

async fn cut(lab: &Lab, teller: &mut Teller, watch: &mut Watch) -> anyhow::Result<()> {
    teller.step("The cloud is cut")?;
    lab.cut().await?;
    teller.proof("edgehold knows: the link is offline")?;
    teller.say("Meanwhile, in the cloud: web-0 goes, web-2 comes, the ConfigMap web changes.")?;
    lab.cloud.delete("Pod", "shop", "web-0");
    lab.cloud.put(pod("web-2", "edge-1"));
    lab.cloud.put(config_map("web", "tea, coffee, cake"));
    teller.silence(watch, SILENCE).await?;
    teller.proof("the kubelet's watch is held: still open, and silent")
}

async fn answered(lab: &Lab, teller: &mut Teller, online: &Online) -> anyhow::Result<()> {
    teller.step("Answered from the cache: to each what it had read itself")?;
    let (kubelet, web) = (lab.kubelet()?, lab.pod()?);
    let pods = teller.get(&kubelet, PODS, 200).await?;
    from_cache(teller, &pods)?;
    teller.equal(
        "the pods of the node",
        names(&pods)?,
        vec!["web-0".to_owned(), "web-1".to_owned()],
    )?;
    teller.proof("web-0 and web-1: the list, and what only the watch has seen")?;
    let node = teller.get(&kubelet, NODE, 200).await?;
    from_cache(teller, &node)?;
    teller.holds(
        node.body == online.node,
        "the node",
        "the same bytes as online",
        &node.text(),
    )?;
    let map = teller.get(&kubelet, WEB, 200).await?;
    from_cache(teller, &map)?;
    teller.equal("the ConfigMap's data", menu(&map)?, "tea, coffee".to_owned())?;
    let config_maps = teller.get(&web, CONFIG_MAPS, 200).await?;
    from_cache(teller, &config_maps)?;
    let came = config_maps.text();
    teller.holds(
        config_maps.body == online.config_maps,
        "the list",
        "the same bytes as online",
        &came,
    )?;
    teller.proof("byte for byte what the apiserver sent")
}

async fn refused(lab: &Lab, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("Refused: what edgehold cannot do or does not know")?;
    let kubelet = lab.kubelet()?;
    let patch = r#"{"metadata":{"annotations":{"written":"offline"}}}"#;
    let write = teller.send(&kubelet, "PATCH", NODE, patch, 503).await?;
    status(teller, &write)?;
    let unknown = teller.get(&kubelet, SECRETS, 503).await?;
    status(teller, &unknown)?;
    teller.proof("never read, so not known: an error, and no empty list")
}

async fn nobody_else(lab: &Lab, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("Nobody else gets it")?;
    let nobody = teller.get(&lab.nobody()?, PODS, 503).await?;
    status(teller, &nobody)?;
    teller.proof("no credential, only the kubelet's User-Agent")?;
    let forged = teller
        .get(&lab.bearer("forger", &forged(&lab.token)?)?, CONFIG_MAPS, 503)
        .await?;
    status(teller, &forged)?;
    teller.proof("the pod's token with another signature")?;
    let other = teller.get(&lab.kube_proxy()?, PODS, 503).await?;
    status(teller, &other)?;
    teller.proof("another good certificate, which has not read this")?;
    teller.shut_out(&lab.impostor()?, PODS).await?;
    let refused = lab.refused_a_certificate().await?;
    teller.holds(refused, "the handshake", "a refused certificate", "none refused")?;
    teller.proof("the kubelet's name from a foreign authority: no handshake")
}

/// Gives the position that the client has reached.
async fn back(lab: &Lab, teller: &mut Teller, watch: &mut Watch) -> anyhow::Result<String> {
    teller.step("The cloud is back: the held watch goes on, in the same stream")?;
    lab.restore().await?;
    teller.event(watch, "DELETED", Some("web-0")).await?;
    let position = teller.event(watch, "ADDED", Some("web-2")).await?;
    let map = teller.get(&lab.kubelet()?, WEB, 200).await?;
    live(teller, &map)?;
    teller.equal(
        "the ConfigMap's data",
        menu(&map)?,
        "tea, coffee, cake".to_owned(),
    )?;
    let written = lab
        .cloud
        .requests()
        .iter()
        .filter(|seen| seen.method == "PATCH")
        .count();
    teller.equal("refused writes that arrived in the cloud", written, 0)?;
    teller.proof("reads are live again; the refused write was not sent behind the client's back")?;
    Ok(position)
}

async fn restarted(
    lab: &mut Lab,
    teller: &mut Teller,
    watch: &mut Watch,
    position: &str,
) -> anyhow::Result<Watch> {
    teller.step("Cut again, and edgehold is stopped and started without a cloud")?;
    lab.cut().await?;
    lab.stop().await?;
    let last = teller.event(watch, "BOOKMARK", None).await?;
    teller.equal("the last bookmark", last.as_str(), position)?;
    teller.end(watch).await?;
    teller.proof("stopped; the watch was ended cleanly, at the position that the kubelet had reached")?;
    let on_disk = lab.is_on_disk(&lab.token)?;
    teller.equal("the pod's token on disk", on_disk, false)?;
    lab.cloud.put(pod("web-3", "edge-1"));
    lab.start().await?;
    let address = lab.address()?;
    teller.proof(&format!("started, and listens on {address}"))?;
    let (kubelet, web) = (lab.kubelet()?, lab.pod()?);
    let pods = teller.get(&kubelet, PODS, 200).await?;
    from_cache(teller, &pods)?;
    teller.equal(
        "the pods of the node",
        names(&pods)?,
        vec!["web-1".to_owned(), "web-2".to_owned()],
    )?;
    teller.proof("web-1 and web-2, from disk")?;
    let config_maps = teller.get(&web, CONFIG_MAPS, 200).await?;
    from_cache(teller, &config_maps)?;
    teller.proof("the token is known from before, though it is not on disk: a keyed hash of it is")?;
    let target = format!("{PODS}&watch=true&allowWatchBookmarks=true&resourceVersion={position}");
    let mut watch = teller.watch(&kubelet, &target).await?;
    teller.silence(&mut watch, SILENCE).await?;
    teller.proof("a watch from where the kubelet stood is held")?;
    Ok(watch)
}

async fn back_again(lab: &Lab, teller: &mut Teller, watch: &mut Watch) -> anyhow::Result<()> {
    teller.step("Back again: that watch goes on too")?;
    lab.restore().await?;
    teller.event(watch, "ADDED", Some("web-3")).await?;
    let pods = teller.get(&lab.kubelet()?, PODS, 200).await?;
    live(teller, &pods)?;
    let expected = ["web-1", "web-2", "web-3"].map(str::to_owned).to_vec();
    teller.equal("the pods of the node", names(&pods)?, expected)?;
    teller.proof("web-1, web-2 and web-3, from the cloud")
}

fn live(teller: &mut Teller, answer: &Answer) -> anyhow::Result<()> {
    teller.equal("Cache-Status of a live answer", answer.header("cache-status"), "")
}

fn from_cache(teller: &mut Teller, answer: &Answer) -> anyhow::Result<()> {
    teller.contains("Cache-Status", answer.header("cache-status"), "edgehold; hit")?;
    let age = answer.header("age");
    teller.holds(age.parse::<u64>().is_ok(), "Age", "seconds", &format!("{age:?}"))
}

/// A refusal must be a Kubernetes `Status`, and must not make the client wait inside the call.
fn status(teller: &mut Teller, answer: &Answer) -> anyhow::Result<()> {
    let body = json(answer)?;
    teller.equal("the body's kind", text(&body, "/kind"), "Status".to_owned())?;
    teller.equal("Retry-After", answer.header("retry-after"), "")?;
    teller.line(&format!("            {}", text(&body, "/message")))
}

fn menu(answer: &Answer) -> anyhow::Result<String> {
    Ok(text(&json(answer)?, "/data/menu"))
}

/// The same claims with a signature that nobody made.
fn forged(token: &str) -> anyhow::Result<String> {
    let (claims, signature) = token.rsplit_once('.').context("a token has three parts")?;
    Ok(format!(
        "{claims}.{}",
        signature.chars().rev().collect::<String>()
    ))
}
