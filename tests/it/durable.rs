//! What survives: kill -9 of the real binary, a full disk, damaged and leftover files.
#![allow(clippy::disallowed_methods)] // it plays the outside: files, clocks, processes

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use apiserver_standin::{Client, Existing, Fault, Standin};
use edgehold::upstream::LinkState;
use serde_json::Value;

use crate::support::{DEADLINE, HIT, Node, config_map, files_below, names};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";

/// The real binary, killed when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(node: &Node) -> Self {
        let config = node.dir.path().join("edgehold.yaml");
        std::fs::write(&config, node.config_text()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_edgehold"))
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whichever of the two it logs to says where it listens.
        let (found, address) = std::sync::mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for output in outputs {
            let found = found.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    apiserver_standin::secrets::search("the log of a process", line.as_bytes());
                    if let Some(address) = listening(&line) {
                        let _told_already = found.send(address);
                    }
                }
            });
        }
        let address = address.recv_timeout(DEADLINE).expect("it says where it listens");
        Self { child, address }
    }

    fn client(&self, node: &Node) -> Client {
        Client::new(self.address, node.api.ca_pem(), Some(&node.pair("kubelet")))
    }

    /// SIGKILL: no destructor, no flush.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("edgehold is serving")?;
    let (_, rest) = rest.split_once("127.0.0.1:")?;
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)))
}

/// Every state that the collection had, by revision.
#[derive(Default)]
struct History(BTreeMap<u64, BTreeMap<String, String>>);

impl History {
    fn put(&mut self, api: &Standin, name: &str, value: usize) {
        let made = api.put(config_map("shop", name, &value.to_string()));
        self.note(revision(&made), |state| {
            state.insert(name.to_owned(), value.to_string());
        });
    }

    fn delete(&mut self, api: &Standin, name: &str) {
        if let Some(gone) = api.delete("ConfigMap", "shop", name) {
            self.note(revision(&gone), |state| {
                state.remove(name);
            });
        }
    }

    fn note(&mut self, revision: u64, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut state = self.at(revision).cloned().unwrap_or_default();
        change(&mut state);
        self.0.insert(revision, state);
    }

    fn at(&self, revision: u64) -> Option<&BTreeMap<String, String>> {
        self.0.range(..=revision).next_back().map(|(_, state)| state)
    }
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn content(list: &Value) -> BTreeMap<String, String> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&item["metadata"]["name"]), text(&item["data"]["k"]))
        })
        .collect()
}

/// Reads over and over until told to stop, whatever comes of it.
fn keep_reading(client: Client, target: String, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let _killed_under_it = client.send("GET", &target, "").await;
        }
    })
}

async fn wait_online(client: &Client) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "the process does not come back online");
        if let Ok(answer) = client.send("GET", "/readyz", "").await
            && answer.status == 200
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_every_list_is_whole_at_a_moment_of_its_past() {
    let mut node = Node::start().await;
    node.stop().await;
    let mut history = History::default();
    for n in 0..20 {
        history.put(&node.api, &format!("n{n:02}"), 0);
    }
    let mut process = Process::start(&node);
    let (mut last, mut value) = (0, 0);
    for round in 1..=5_usize {
        let client = process.client(&node);
        wait_online(&client).await;
        let first = client.get(SHOP).await;
        let began = revision(&first.json());
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = [SHOP.to_owned(), format!("{SHOP}/n00"), format!("{SHOP}/n07")]
            .into_iter()
            .map(|target| keep_reading(client.clone(), target, &stop))
            .collect();
        let mut connection = client.connect().await.unwrap();
        let target = format!("{SHOP}?watch=true&resourceVersion={began}");
        let mut watch = connection.lines(&target).await.unwrap();
        // More than are ever waited for: some are under way when the process dies.
        for _ in 0..220 {
            value += 1;
            let name = format!("n{:02}", value % 23);
            if value % 11 == 0 {
                history.delete(&node.api, &name);
            } else {
                history.put(&node.api, &name, value);
            }
            if value % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..20 + 37 * (round - 1) {
            watch.next().await.unwrap().expect("the watch goes on");
        }
        process.kill();
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }

        node.api.fault(Fault::Refuse(Existing::Cut));
        process = Process::start(&node);
        let client = process.client(&node);
        let list = client.get(SHOP).await;
        assert_eq!(
            (list.status, list.header("cache-status")),
            (200, HIT),
            "round {round}"
        );
        let list = list.json();
        let at = revision(&list);
        assert_eq!(Some(&content(&list)), history.at(at), "round {round}, at {at}");
        assert!(at >= last, "round {round}: {at} is before {last}");
        last = at;
        for name in ["n00", "n07"] {
            let object = client.get(&format!("{SHOP}/{name}")).await;
            if object.status == 200 {
                let object = object.json();
                let then = history.at(revision(&object)).unwrap();
                assert_eq!(then.get(name).map(String::as_str), object["data"]["k"].as_str());
            } else {
                assert!([404, 503].contains(&object.status), "{}", object.status);
            }
        }
        assert_no_leftovers(&node.cache_dir());
        node.api.clear_faults();
    }
}

fn assert_no_leftovers(cache: &Path) {
    for path in files_below(cache) {
        let text = path.display().to_string();
        assert!(!text.contains("quarantine"), "nothing was damaged: {text}");
        assert!(!text.ends_with(".tmp"), "left over: {text}");
    }
}

/// A small file system of its own; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Starts a node anew with its cache on one; `None`, with a word on stderr, if none can be mounted.
    pub async fn under(node: &mut Node) -> Option<Self> {
        node.stop().await;
        std::fs::remove_dir_all(node.cache_dir()).unwrap();
        let disk = Self::mount(&node.cache_dir());
        if disk.is_none() {
            eprintln!("SKIPPED: a small file system cannot be mounted here");
        }
        node.launch().await;
        disk
    }

    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }

    /// Takes all the space that is left.
    pub fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let block = vec![0; 4096];
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_breaks_no_stream_and_is_recovered_from() {
    let mut node = Node::start().await;
    let Some(disk) = SmallDisk::under(&mut node).await else {
        return;
    };
    node.api.put(config_map("shop", "a", "1"));
    let first = node.kubelet().get(SHOP).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let began = revision(&first.json());
    let mut watch = connection
        .lines(&format!("{SHOP}?watch=true&resourceVersion={began}"))
        .await
        .unwrap();
    node.settle().await;
    let filler = disk.fill();

    // Nothing of this can be written down; all of it must arrive, without waiting for the disk.
    let started = Instant::now();
    for n in 0..30 {
        let name = format!("n{n:02}");
        node.api.put(config_map("shop", &name, &"x".repeat(200_000)));
        let event = watch.next().await.unwrap().expect("the watch goes on");
        assert_eq!(event["object"]["metadata"]["name"], name.as_str());
    }
    let truth = node.direct().get(SHOP).await;
    for _ in 0..3 {
        assert_eq!(
            node.kubelet().get(SHOP).await.body,
            truth.body,
            "a list larger than the disk"
        );
        assert_eq!(node.status(&format!("{SHOP}/n00")).await, 200);
    }
    assert!(started.elapsed() < 2 * DEADLINE, "{:?}", started.elapsed());

    // What was whole is whole; nothing half is shown.
    node.cut().await;
    let stale = node.kubelet().get(SHOP).await;
    assert!([200, 503].contains(&stale.status));
    if stale.status == 200 {
        assert!(names(&stale.json()).starts_with(&["a".to_owned()]));
    }
    node.heal().await;

    std::fs::remove_file(filler).unwrap();
    for n in 0..30 {
        node.api.delete("ConfigMap", "shop", &format!("n{n:02}"));
    }
    node.api.put(config_map("shop", "b", "2"));
    let fresh = node.kubelet().get(SHOP).await;
    assert_eq!(names(&fresh.json()), ["a", "b"]);
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        node.cut().await;
        let cached = node.kubelet().get(SHOP).await;
        assert_eq!((cached.status, &cached.body), (200, &fresh.body), "space is back");
        node.heal().await;
    }
    node.stop().await;
    drop(disk);
}

/// The file that holds this text.
/// A file system of its own that can be made to hang: whoever writes to it waits. Thawed and unmounted when dropped.
struct HangingDisk {
    mount: PathBuf,
    /// Thaws it if this process cannot: nobody could end a process that waits for it.
    watchdog: Option<Child>,
}

impl HangingDisk {
    fn mount(image: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
        let succeeds = |program: &str, args: &[&std::ffi::OsStr]| {
            let status = Command::new(program).args(args).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let (image, target) = (image.as_os_str(), at.as_os_str());
        let mounted = succeeds("mkfs.ext4", &["-q".as_ref(), image])
            && succeeds("mount", &["-o".as_ref(), "loop".as_ref(), image, target]);
        let mount = at.to_owned();
        mounted.then_some(Self {
            mount,
            watchdog: None,
        })
    }

    fn freeze(&mut self) {
        let script = "sleep 120; fsfreeze --unfreeze \"$0\"";
        let watchdog = Command::new("sh").args(["-c", script]).arg(&self.mount).spawn();
        self.watchdog = Some(watchdog.unwrap());
        let status = Command::new("fsfreeze").arg("--freeze").arg(&self.mount).status();
        assert!(status.unwrap().success());
    }

    fn thaw(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            let _thawed = Command::new("fsfreeze")
                .arg("--unfreeze")
                .arg(&self.mount)
                .status();
            let _ended = watchdog.kill();
            let _reaped = watchdog.wait();
        }
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        self.thaw();
        let _best_effort = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_nobody_and_costs_only_what_it_has_to_write() {
    const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
    let mut node = Node::start().await;
    node.stop().await;
    std::fs::remove_dir_all(node.cache_dir()).unwrap();
    let image = node.dir.path().join("disk.img");
    let Some(mut disk) = HangingDisk::mount(&image, &node.cache_dir()) else {
        eprintln!("SKIPPED: a file system that can be frozen cannot be mounted here");
        return;
    };
    node.launch().await;
    node.api.put(config_map("shop", "a", "1"));
    let (kubelet, other) = (node.kubelet(), node.client(Some(&node.pair("kube-proxy"))));
    let first = kubelet.get(SHOP).await;
    let untouched = other.get(SHOP).await;
    assert_eq!(kubelet.get(&format!("{SHOP}/a")).await.status, 200);
    let mut connection = kubelet.connect().await.unwrap();
    let from = revision(&first.json());
    let target = format!("{SHOP}?watch=true&resourceVersion={from}");
    let mut watch = connection.lines(&target).await.unwrap();
    node.settle().await;
    disk.freeze();

    // Online nobody notices.
    for n in 0..20 {
        let name = format!("n{n:02}");
        node.api.put(config_map("shop", &name, "1"));
        let event = watch.next().await.unwrap().expect("the watch goes on");
        assert_eq!(event["object"]["metadata"]["name"], name.as_str());
    }
    for target in [SHOP, &format!("{SHOP}/n00"), SECRETS, "/version"] {
        let answer = kubelet.get(target).await;
        assert_eq!(
            (answer.status, answer.header("cache-status")),
            (200, ""),
            "{target}"
        );
    }
    let deleted = kubelet.send("DELETE", &format!("{SHOP}/a"), "").await.unwrap();
    assert_eq!(deleted.status, 200);

    // Offline only what waits for the disk is not told.
    node.api.fault(Fault::Refuse(Existing::Cut));
    let _any = kubelet.send("GET", "/version?cut", "").await;
    node.wait_link(LinkState::Offline).await;
    let begun = Instant::now();
    let kept = other.get(SHOP).await;
    assert_eq!(
        (kept.status, &kept.body),
        (200, &untouched.body),
        "nothing is written there"
    );
    for target in [
        SHOP,
        &format!("{SHOP}/a"),
        &format!("{SHOP}/n00"),
        &format!("{SHOP}/never"),
    ] {
        assert_eq!(kubelet.get(target).await.status, 503, "{target}");
    }
    let took = begun.elapsed();
    assert!(took < DEADLINE, "{took:?}");

    disk.thaw();
    node.settle().await;
    assert_eq!(kubelet.get(&format!("{SHOP}/a")).await.status, 404);
    assert_eq!(kubelet.get(&format!("{SHOP}/n00")).await.status, 200);
    node.api.clear_faults();
    node.wait_link(LinkState::Online).await;
    let fresh = kubelet.get(SHOP).await;
    node.cut().await;
    assert_eq!(kubelet.get(SHOP).await.body, fresh.body, "it is written again");
    node.stop().await;
    drop(disk);
}

fn file_with(cache: &Path, needle: &str) -> PathBuf {
    files_below(cache)
        .into_iter()
        .find(|path| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
        })
        .unwrap_or_else(|| panic!("no file holds {needle}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_harms_only_its_own_view() {
    let mut node = Node::start().await;
    let lists =
        ["shop", "bank", "mill"].map(|namespace| format!("/api/v1/namespaces/{namespace}/configmaps"));
    let mut online = Vec::new();
    for (list, namespace) in lists.iter().zip(["shop", "bank", "mill"]) {
        for n in 0..20 {
            let name = format!("n{n:02}");
            node.api
                .put(config_map(namespace, &name, &format!("value-of-{namespace}-{n}")));
        }
        online.push(node.kubelet().get(list).await.body);
    }
    node.settle().await;
    node.stop().await;
    node.api.fault(Fault::Refuse(Existing::Cut));
    let victim = file_with(&node.cache_dir(), "value-of-bank-7");
    let good = std::fs::read(&victim).unwrap();
    let (mut lost, mut kept) = (0, 0);
    for step in 0..16 {
        let mut bad = good.clone();
        let at = (bad.len() - 1) * (step / 2) / 7;
        if step % 2 == 0 {
            bad[at] ^= 0x10;
        } else {
            bad.truncate(at);
        }
        std::fs::write(&victim, &bad).unwrap();
        node.launch().await;
        for (n, list) in lists.iter().enumerate() {
            let answer = node.kubelet().get(list).await;
            let is_victim = n == 1;
            match answer.status {
                200 => assert_eq!(answer.body, online[n], "{list}: step {step}"),
                503 if is_victim => lost += 1,
                other => panic!("{list}: {other} at step {step}: {}", answer.text()),
            }
            kept += usize::from(is_victim && answer.status == 200);
        }
        node.stop().await;
    }
    assert!(
        lost > 8,
        "the damage was found {lost} times, not found {kept} times"
    );
    std::fs::write(&victim, &good).unwrap();
    node.launch().await;
    assert_eq!(node.kubelet().get(&lists[1]).await.body, online[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftover_temporary_files_are_removed_at_the_start() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let online = node.kubelet().get(SHOP).await;
    node.settle().await;
    node.stop().await;
    let log = file_with(&node.cache_dir(), "\"k\":\"1\"");
    let leftover = log.with_extension("tmp");
    std::fs::write(&leftover, b"half a list").unwrap();
    node.launch().await;
    assert!(!leftover.exists());
    node.cut().await;
    assert_eq!(node.kubelet().get(SHOP).await.body, online.body);
    assert_no_leftovers(&node.cache_dir());
}
