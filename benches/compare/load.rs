//! A client over HTTP/1.1 and TLS that does next to nothing with the answers, so that little of what is measured is its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What came of some seconds of requests.
#[derive(Debug, Default)]
pub struct Load {
    /// Sorted, in microseconds.
    latencies: Vec<u32>,
    bytes: u64,
    took: Duration,
}

impl Load {
    pub fn requests(&self) -> usize {
        self.latencies.len()
    }

    pub fn seconds(&self) -> f64 {
        self.took.as_secs_f64()
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests() as f64 / self.seconds()
    }

    /// Of bodies and heads.
    pub fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// Microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        f64::from(self.latencies[(self.latencies.len() - 1) * percent / 100])
    }
}

/// An answer that takes longer never comes.
const LONGEST: Duration = Duration::from_secs(30);

/// GETs of one path over some connections at once, one request after the other on each, for a time; at least one each.
pub async fn run(
    config: Arc<ClientConfig>,
    to: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Load {
    let request: Arc<str> = format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nAccept: application/json\r\nUser-Agent: compare\r\n\r\n"
    )
    .into();
    let connector = TlsConnector::from(config);
    let mut open = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(to)
            .await
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(to.ip());
        open.push(
            connector
                .connect(name, stream)
                .await
                .unwrap_or_else(|error| panic!("{to}: {error}")),
        );
    }
    let start = Instant::now();
    let workers: Vec<_> = open
        .into_iter()
        .map(|stream| tokio::task::spawn_local(requests(stream, Arc::clone(&request), start + time)))
        .collect();
    let mut load = Load::default();
    for worker in workers {
        let (latencies, bytes) = worker.await.expect("a connection ended");
        load.latencies.extend(latencies);
        load.bytes += bytes;
    }
    load.took = start.elapsed();
    load.latencies.sort_unstable();
    load
}

async fn requests(mut stream: TlsStream<TcpStream>, request: Arc<str>, end: Instant) -> (Vec<u32>, u64) {
    let (mut latencies, mut bytes) = (Vec::new(), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let asked = Instant::now();
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a request is taken");
        stream.flush().await.expect("a request is taken");
        let answered = tokio::time::timeout(LONGEST, answer(&mut stream, &mut buffer)).await;
        bytes += answered.unwrap_or_else(|_| panic!("no whole answer within {LONGEST:?}: {request}"));
        let now = Instant::now();
        latencies.push(u32::try_from((now - asked).as_micros()).unwrap_or(u32::MAX));
        if now >= end {
            return (latencies, bytes);
        }
    }
}

/// Reads one answer, which must be a 200, and gives its size.
async fn answer(stream: &mut TlsStream<TcpStream>, buffer: &mut [u8]) -> u64 {
    let mut filled = 0;
    let head = loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("an answer");
        assert!(read > 0, "the connection was closed instead of an answer");
        filled += read;
        if let Some(at) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200"), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut total = filled;
    if let Some(length) = length {
        let end = head + length.trim().parse::<usize>().expect("a length");
        while total < end {
            total += more(stream, buffer).await;
        }
    } else {
        // Chunks. JSON has no CR, so the last five bytes are those of the last chunk only at the end.
        let mut tail = buffer[..filled].to_vec();
        while !tail.ends_with(b"0\r\n\r\n") {
            let read = more(stream, buffer).await;
            total += read;
            tail.extend_from_slice(&buffer[read.saturating_sub(5)..read]);
            tail.drain(..tail.len().saturating_sub(5));
        }
    }
    total as u64
}

async fn more(stream: &mut TlsStream<TcpStream>, buffer: &mut [u8]) -> usize {
    let read = stream.read(buffer).await.expect("the rest of an answer");
    assert!(read > 0, "the connection was closed within an answer");
    read
}
