//! What a hostile neighbour does: some of everything that docs/security.md has a row for, in an order that the seed gives, several
//! at once, each bounded in number and time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver_standin::{
    Answer, Client, ClientError, Options, Pair, Pki, Protocol, ServiceAccountToken, Standin, Validity,
    connect,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{DEADLINE, Dice, KUBELET, Node, PROTOCOLS, TestBody, shake, watch_list};

use super::SECRET;

/// Attacks at once.
const ABREAST: usize = 5;

/// How long one attack may take, and for how long it holds what it has.
const LONGEST: Duration = Duration::from_secs(10);
const HELD: u64 = 2000;

const VICTIMS: &str = "/api/v1/namespaces/shop/configmaps";
const OWN: &str = "/api/v1/namespaces/own/configmaps";
const EXEC: &str = "/api/v1/namespaces/own/pods/p/exec?command=sh&stdin=true";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attack {
    /// Tokens that nobody has issued, of an honest account and of nobody.
    MadeUpTokens,
    /// The same, named in `Connection`.
    HiddenTokens,
    /// `OPTIONS` with `Origin`.
    Preflights,
    /// `X-Remote-*`, `Impersonate-*`, a copied `User-Agent`.
    Claims,
    /// Connections on which nothing is said.
    Idle,
    /// A handshake, a byte at a time.
    SlowHandshakes,
    /// What is neither TLS nor HTTP.
    Garbage,
    /// Large headers, and some that have no end.
    LargeHeaders,
    /// As many streams as there may be.
    Streams,
    /// Streams that are reset as soon as they are opened.
    Resets,
    /// Many watches, each of another selector.
    Watches,
    /// Answers that nobody reads.
    Unread,
    /// Upgrades, with a credential and without.
    Upgrades,
    /// Certificates of others, of nobody, and expired.
    Certificates,
    /// Selectors as large as a line may be.
    Selectors,
    /// Bodies that stand still.
    SlowBodies,
    /// Writes, for which there is no right.
    Writes,
}

impl Attack {
    const ALL: [Self; 17] = [
        Self::MadeUpTokens,
        Self::HiddenTokens,
        Self::Preflights,
        Self::Claims,
        Self::Idle,
        Self::SlowHandshakes,
        Self::Garbage,
        Self::LargeHeaders,
        Self::Streams,
        Self::Resets,
        Self::Watches,
        Self::Unread,
        Self::Upgrades,
        Self::Certificates,
        Self::Selectors,
        Self::SlowBodies,
        Self::Writes,
    ];
}

/// The neighbour at work, until it is stopped.
pub(super) struct Neighbour {
    means: Arc<Means>,
    stopping: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Attack>>>,
    work: JoinHandle<()>,
}

impl Neighbour {
    pub(super) fn start(node: &Node, seed: u64) -> Self {
        let means = Arc::new(Means::of(node));
        let stopping = Arc::new(AtomicBool::new(false));
        let done = Arc::default();
        let dice = Dice::new(seed);
        let work = work(dice, Arc::clone(&means), Arc::clone(&stopping), Arc::clone(&done));
        Self {
            means,
            stopping,
            done,
            work: tokio::spawn(work),
        }
    }

    /// edgehold has another address now.
    pub(super) fn moves_to(&self, address: SocketAddr) {
        *self.means.address.lock() = address;
    }

    /// How often each attack has ended.
    pub(super) fn done(&self) -> BTreeMap<Attack, usize> {
        let mut counts = BTreeMap::new();
        for attack in self.done.lock().iter() {
            *counts.entry(*attack).or_default() += 1;
        }
        counts
    }

    /// Whether each has at least once. Fails if one has got what it must not.
    pub(super) fn has_done_all(&self) -> bool {
        assert!(!self.work.is_finished(), "the neighbour has been told a secret");
        self.done().len() == Attack::ALL.len()
    }

    /// What ended last.
    pub(super) fn recent(&self) -> Vec<Attack> {
        let done = self.done.lock();
        done[done.len().saturating_sub(20)..].to_vec()
    }

    /// Lets what is under way end, and says what was done.
    pub(super) async fn stop(&mut self) -> BTreeMap<Attack, usize> {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(DEADLINE, &mut self.work).await;
        ended
            .expect("the neighbour ends")
            .expect("no attack has succeeded");
        self.done()
    }
}

async fn work(mut dice: Dice, means: Arc<Means>, stopping: Arc<AtomicBool>, done: Arc<Mutex<Vec<Attack>>>) {
    let mut deck = Vec::new();
    let mut under_way = JoinSet::new();
    while !stopping.load(Ordering::Relaxed) {
        while under_way.len() < ABREAST {
            // Each comes before one comes again.
            if deck.is_empty() {
                deck = Attack::ALL.to_vec();
            }
            let at = usize::try_from(dice.below(deck.len() as u64)).unwrap();
            let attack = deck.swap_remove(at);
            let (means, dice) = (Arc::clone(&means), Dice::new(dice.below(u64::MAX)));
            under_way.spawn(async move {
                let _cut_short = tokio::time::timeout(LONGEST, means.carry_out(attack, dice)).await;
                attack
            });
        }
        let ended = under_way.join_next().await.unwrap();
        done.lock()
            .push(ended.expect("it gets nothing that is not its own"));
    }
    while let Some(ended) = under_way.join_next().await {
        done.lock()
            .push(ended.expect("it gets nothing that is not its own"));
    }
}

/// What the neighbour has.
struct Means {
    address: Mutex<SocketAddr>,
    ca: String,
    /// Of the honest pod's account, signed by nobody who counts.
    forged: Vec<String>,
    /// Its own account's.
    own: String,
    /// Certificates that are good for nothing.
    wrong: Vec<Pair>,
}

impl Means {
    fn of(node: &Node) -> Self {
        let other_cluster = Standin::start(Options::default());
        let account = ServiceAccountToken {
            uid: Some("su".into()),
            ..ServiceAccountToken::new("shop", "web")
        };
        let pki = node.api.pki();
        let past = Validity::for_seconds(-60);
        Self {
            address: Mutex::new(node.running().addresses()[0]),
            ca: node.api.ca_pem().to_owned(),
            forged: (0..20).map(|_| other_cluster.issue(&account)).collect(),
            own: node.api.issue(&ServiceAccountToken::new("own", "evil")),
            wrong: vec![
                Pki::named("kubernetes").client(Some(KUBELET), &["system:nodes"]),
                pki.client(Some("admin"), &["system:masters"]),
                pki.client(Some(KUBELET), &["system:masters"]),
                pki.client_valid(Some(KUBELET), &["system:nodes"], past),
            ],
        }
    }

    fn address(&self) -> SocketAddr {
        *self.address.lock()
    }

    fn client(&self, dice: &mut Dice, pair: Option<&Pair>) -> Client {
        let protocol = dice.pick(&PROTOCOLS);
        let client = Client::new(self.address(), &self.ca, pair).protocol(protocol);
        client.from_address(source(dice))
    }

    fn pod(&self, dice: &mut Dice) -> Client {
        self.client(dice, None).token(&self.own)
    }

    /// Bare TLS, for what no library would send.
    async fn bare(
        &self,
        dice: &mut Dice,
        alpn: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let stream = connect(Some(source(dice)), self.address()).await?;
        shake(stream, &self.ca, None, alpn).await
    }

    async fn http2(&self, dice: &mut Dice, window: u32) -> Option<http2::SendRequest<TestBody>> {
        let stream = TokioIo::new(self.bare(dice, "h2").await.ok()?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, driver) = builder.handshake(stream).await.ok()?;
        tokio::spawn(driver);
        Some(sender)
    }

    async fn carry_out(&self, attack: Attack, dice: Dice) {
        match attack {
            Attack::MadeUpTokens => self.made_up_tokens(dice).await,
            Attack::HiddenTokens => self.hidden_tokens(dice).await,
            Attack::Preflights => self.preflights(dice).await,
            Attack::Claims => self.claims(dice).await,
            Attack::Idle => self.idle(dice).await,
            Attack::SlowHandshakes => self.slow_handshakes(dice).await,
            Attack::Garbage => self.garbage(dice).await,
            Attack::LargeHeaders => self.large_headers(dice).await,
            Attack::Streams => self.streams(dice).await,
            Attack::Resets => self.resets(dice).await,
            Attack::Watches => self.watches(dice).await,
            Attack::Unread => self.unread(dice).await,
            Attack::Upgrades => self.upgrades(dice).await,
            Attack::Certificates => self.certificates(dice).await,
            Attack::Selectors => self.selectors(dice).await,
            Attack::SlowBodies => self.slow_bodies(dice).await,
            Attack::Writes => self.writes(dice).await,
        }
    }

    async fn made_up_tokens(&self, mut dice: Dice) {
        for _ in 0..10 {
            let token = &self.forged[usize::try_from(dice.below(self.forged.len() as u64)).unwrap()];
            let target = dice.pick(&[VICTIMS, "/api/v1/namespaces/shop/configmaps/x", "/version"]);
            let forger = self.client(&mut dice, None).token(token);
            refused(&forger.send("GET", target, "").await);
        }
        let Some(sender) = self.http2(&mut dice, 65_535).await else {
            return;
        };
        let mut asking = JoinSet::new();
        for _ in 0..100 {
            let token = format!("Bearer made-up-{}", dice.below(u64::MAX));
            asking.spawn(ask(sender.clone(), get(VICTIMS, "authorization", &token)));
        }
        while asking.join_next().await.is_some() {}
    }

    async fn hidden_tokens(&self, mut dice: Dice) {
        for _ in 0..8 {
            let token = &self.forged[usize::try_from(dice.below(self.forged.len() as u64)).unwrap()];
            let subprotocol = URL_SAFE_NO_PAD.encode(token);
            let (named, credential) = dice.pick(&[
                ("authorization", false),
                ("keep-alive, AUTHORIZATION", false),
                ("Upgrade, sec-websocket-protocol", true),
                ("host", false),
            ]);
            let credential = if credential {
                format!(
                    "Upgrade: websocket\r\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{subprotocol}"
                )
            } else {
                format!("Authorization: Bearer {token}")
            };
            let target = dice.pick(&["/version", VICTIMS]);
            let request = format!(
                "GET {target} HTTP/1.1\r\nHost: x\r\n{credential}\r\nConnection: close\r\nConnection: {named}\r\n\r\n"
            );
            let answer = self.say(&mut dice, request.as_bytes()).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
                "{answer}"
            );
        }
    }

    /// Says this on a connection of its own and gives all that is answered.
    async fn say(&self, dice: &mut Dice, bytes: &[u8]) -> String {
        let Ok(mut stream) = self.bare(dice, "http/1.1").await else {
            return String::new();
        };
        let mut answer = Vec::new();
        if stream.write_all(bytes).await.is_ok() {
            let reading = stream.read_to_end(&mut answer);
            let _silent = tokio::time::timeout(LONGEST / 2, reading).await;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains(SECRET), "{answer}");
        answer
    }

    async fn preflights(&self, mut dice: Dice) {
        for token in &self.forged[..8] {
            let page = self.client(&mut dice, None).token(token);
            let page = page.header("origin", "https://evil.example");
            harmless(&page.send("OPTIONS", VICTIMS, "").await);
            refused(&page.send("GET", VICTIMS, "").await);
        }
    }

    async fn claims(&self, mut dice: Dice) {
        let agent = "kubelet/v1.36.2 (linux/amd64) kubernetes/abc";
        for _ in 0..4 {
            let nobody = self.client(&mut dice, None);
            let pod = self.pod(&mut dice);
            for client in [nobody, pod] {
                let remote = client.clone().header("x-remote-user", KUBELET);
                let other = client.clone().header("impersonate-user", KUBELET);
                for client in [remote, other, client.header("user-agent", agent)] {
                    refused(&client.send("GET", VICTIMS, "").await);
                }
            }
        }
    }

    async fn idle(&self, mut dice: Dice) {
        let mut held = Vec::new();
        for _ in 0..60 {
            held.extend(connect(Some(source(&mut dice)), self.address()).await);
        }
        let mut shaken = Vec::new();
        for _ in 0..10 {
            shaken.extend(self.client(&mut dice, None).connect().await);
        }
        wait(&mut dice).await;
    }

    async fn slow_handshakes(&self, mut dice: Dice) {
        let mut held = Vec::new();
        for _ in 0..40 {
            held.extend(connect(Some(source(&mut dice)), self.address()).await);
        }
        // The head of a ClientHello that announces 512 bytes.
        for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] {
            for stream in &mut held {
                let _closed = stream.write_all(&[byte]).await;
            }
            tokio::time::sleep(Duration::from_millis(dice.below(HELD / 10))).await;
        }
    }

    async fn garbage(&self, mut dice: Dice) {
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..200).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
            if let Ok(mut stream) = connect(Some(source(&mut dice)), self.address()).await {
                let _closed = stream.write_all(&bytes).await;
            }
            if dice.chance(30) {
                self.say(
                    &mut dice,
                    &[&b"GET / HTTP/1.1\r\n"[..], &bytes, b"\r\n\r\n"].concat(),
                )
                .await;
            }
        }
    }

    async fn large_headers(&self, mut dice: Dice) {
        let mut asking = JoinSet::new();
        for n in 0..40 {
            let filler = "x".repeat(20 << 10);
            let client = self.client(&mut dice, None).header("x-one", &filler);
            let client = client.header("x-other", if n % 4 == 0 { "" } else { filler.as_str() });
            asking.spawn(async move { refused(&client.send("GET", VICTIMS, "").await) });
        }
        for _ in 0..5 {
            if let Ok(mut stream) = self.bare(&mut dice, "http/1.1").await {
                let _closed = stream.write_all(b"GET / HTTP/1.1\r\nX-No-End: ").await;
                asking.spawn(async move {
                    for _ in 0..20 {
                        let _closed = stream.write_all(&[b'x'; 4096]).await;
                        tokio::time::sleep(Duration::from_millis(HELD / 20)).await;
                    }
                });
            }
        }
        while let Some(ended) = asking.join_next().await {
            ended.unwrap();
        }
    }

    async fn streams(&self, mut dice: Dice) {
        let mut asking = JoinSet::new();
        for _ in 0..2 {
            let Some(sender) = self.http2(&mut dice, 65_535).await else {
                return;
            };
            for n in 0..250 {
                asking.spawn(ask(
                    sender.clone(),
                    get(&format!("{VICTIMS}?limit={n}"), "x-a", "b"),
                ));
            }
        }
        while let Some(ended) = asking.join_next().await {
            ended.unwrap();
        }
    }

    async fn resets(&self, mut dice: Dice) {
        let Some(mut sender) = self.http2(&mut dice, 65_535).await else {
            return;
        };
        let token = format!("Bearer {}", self.own);
        for n in 0..300 {
            let target = format!("{}?limit={n}", dice.pick(&[OWN, VICTIMS]));
            let asking = sender.send_request(get(&target, "authorization", &token));
            let some = Duration::from_micros(dice.below(500));
            let _given_up = tokio::time::timeout(some, asking).await;
        }
    }

    async fn watches(&self, mut dice: Dice) {
        let token = format!("Bearer {}", self.own);
        let Some(mut sender) = self.http2(&mut dice, 65_535).await else {
            return;
        };
        let mut open = Vec::new();
        for _ in 0..60 {
            let selector = format!("labelSelector=app%21%3Dx{}", dice.below(1 << 30));
            let target = watch_list(&format!("{OWN}?{selector}"));
            if let Ok(answer) = sender.send_request(get(&target, "authorization", &token)).await {
                open.push(answer);
            }
        }
        wait(&mut dice).await;
    }

    async fn unread(&self, mut dice: Dice) {
        let token = format!("Bearer {}", self.own);
        let Some(mut sender) = self.http2(&mut dice, 1024).await else {
            return;
        };
        let mut open = Vec::new();
        for n in 0..40 {
            let target = format!("{OWN}?limit={}", n + 2);
            if let Ok(answer) = sender.send_request(get(&target, "authorization", &token)).await {
                open.push(answer);
            }
        }
        wait(&mut dice).await;
    }

    async fn upgrades(&self, mut dice: Dice) {
        let mut open = Vec::new();
        for n in 0..12 {
            let client = if n % 3 == 0 {
                self.pod(&mut dice)
            } else {
                self.client(&mut dice, None)
            };
            let client = client
                .protocol(Protocol::Http1)
                .header("connection", "Upgrade")
                .header("upgrade", "SPDY/3.1")
                .header("x-stream-protocol-version", "v4.channel.k8s.io");
            if let Ok(mut connection) = client.connect().await {
                let answer = connection.open("POST", EXEC, "").await;
                open.push((connection, answer));
            }
        }
        wait(&mut dice).await;
    }

    async fn certificates(&self, mut dice: Dice) {
        for _ in 0..3 {
            for pair in &self.wrong {
                let client = self.client(&mut dice, Some(pair));
                refused(&client.send("GET", VICTIMS, "").await);
            }
        }
    }

    async fn selectors(&self, mut dice: Dice) {
        for _ in 0..6 {
            let names: Vec<String> = (0..1500).map(|_| format!("v{}", dice.below(1 << 40))).collect();
            let selector = format!("app%20notin%20({})", names.join("%2C"));
            let pod = self.pod(&mut dice);
            harmless(
                &pod.send("GET", &format!("{OWN}?labelSelector={selector}"), "")
                    .await,
            );
            refused(
                &pod.send("GET", &format!("{VICTIMS}?labelSelector={selector}"), "")
                    .await,
            );
        }
    }

    async fn slow_bodies(&self, mut dice: Dice) {
        let mut held = Vec::new();
        for n in 0..10 {
            let Ok(mut stream) = self.bare(&mut dice, "http/1.1").await else {
                continue;
            };
            let credential = if n % 2 == 0 { &self.own } else { &self.forged[0] };
            let head = format!(
                "POST {OWN} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\nContent-Type: application/json\r\n\
                 Content-Length: 100000\r\n\r\n{{"
            );
            if stream.write_all(head.as_bytes()).await.is_ok() {
                held.push(stream);
            }
        }
        wait(&mut dice).await;
    }

    async fn writes(&self, mut dice: Dice) {
        for _ in 0..10 {
            let pod = self.pod(&mut dice).header("content-type", "application/json");
            let target = dice.pick(&[OWN, VICTIMS]);
            let object =
                r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"k":"evil"}}"#;
            refused(&pod.send("POST", target, object).await);
            refused(&pod.send("PUT", &format!("{VICTIMS}/x"), object).await);
            refused(&pod.send("DELETE", &format!("{VICTIMS}/x"), "").await);
        }
    }
}

/// Where its connections come from.
fn source(dice: &mut Dice) -> IpAddr {
    [127, 0, 0, dice.pick(&[20, 21, 22])].into()
}

async fn wait(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.below(HELD))).await;
}

fn get(target: &str, field: &str, value: &str) -> Request<TestBody> {
    let request = Request::get(format!("https://edge{target}")).header(field, value);
    request.body(Empty::new().boxed_unsync()).unwrap()
}

async fn ask(mut sender: http2::SendRequest<TestBody>, request: Request<TestBody>) {
    if let Ok(answer) = sender.send_request(request).await {
        assert_ne!(answer.status(), 200);
        if let Ok(body) = answer.into_body().collect().await {
            let body = body.to_bytes();
            assert!(!String::from_utf8_lossy(&body).contains(SECRET));
        }
    }
}

/// No answer at all will do, but none may hold what is the others'.
fn harmless(answer: &Result<Answer, ClientError>) {
    if let Ok(answer) = answer {
        assert!(!answer.text().contains(SECRET), "{}", answer.text());
    }
}

fn refused(answer: &Result<Answer, ClientError>) {
    harmless(answer);
    if let Ok(answer) = answer {
        assert!(answer.status >= 400, "{}: {}", answer.status, answer.text());
    }
}
