//! What arrived: every request, and counters of connections and streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The HTTP version a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Counts from 0 over the life of the server.
    pub number: u64,
    /// `GET`, ...
    pub method: String,
    /// Path and query exactly as sent.
    pub target: String,
    /// `:authority` on HTTP/2, `Host` on HTTP/1.1; empty if it was missing.
    pub authority: String,
    /// All headers, `Authorization` and `X-Remote-*` included.
    pub headers: HeaderMap,
    /// Common name of the client certificate, also of one that was refused.
    pub peer_cn: Option<String>,
    /// The bearer token.
    pub token: Option<String>,
    /// Who the server took the client for; `None` if it was refused (401).
    pub user: Option<String>,
    /// HTTP version.
    pub protocol: Protocol,
    /// Counts connections from 1 over the life of the server.
    pub connection_id: u64,
}

impl Seen {
    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The decoded value of a query parameter.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        form_urlencoded::parse(query.as_bytes())
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.into_owned())
    }

    /// Whether it asked for a watch.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query("watch")
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TCP connections accepted since the start.
    pub connections_total: u64,
    /// Of these, still open.
    pub connections_open: u64,
    /// Requests since the start.
    pub requests_total: u64,
    /// Requests whose answer has not ended.
    pub streams_open: u64,
}

/// Keeps the record and wakes whoever waits for a change in it.
#[derive(Debug)]
pub(crate) struct Recorder {
    state: Mutex<(VecDeque<Seen>, Counters)>,
    changed: watch::Sender<u64>,
    remember: usize,
}

impl Recorder {
    pub(crate) fn new(remember: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            remember,
        })
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state.lock().0.iter().cloned().collect()
    }

    pub(crate) fn forget(&self) {
        self.state.lock().0.clear();
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state.lock().1
    }

    pub(crate) fn connection(self: &Arc<Self>) -> (u64, Open) {
        let id = {
            let counters = &mut self.state.lock().1;
            counters.connections_total += 1;
            counters.connections_open += 1;
            counters.connections_total
        };
        self.touch();
        (
            id,
            Open {
                recorder: self.clone(),
                what: What::Connection,
            },
        )
    }

    /// Records a request; the guard lives as long as its answer.
    pub(crate) fn request(self: &Arc<Self>, mut seen: Seen) -> Open {
        {
            let (requests, counters) = &mut *self.state.lock();
            seen.number = counters.requests_total;
            counters.requests_total += 1;
            counters.streams_open += 1;
            if requests.len() >= self.remember {
                requests.pop_front();
            }
            requests.push_back(seen);
        }
        self.touch();
        Open {
            recorder: self.clone(),
            what: What::Stream,
        }
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Waits until `find` gives something; `None` after `deadline`.
    pub(crate) async fn wait<T>(
        &self,
        deadline: Duration,
        mut find: impl FnMut(&[Seen], Counters) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.changed.subscribe();
        let search = async {
            loop {
                changes.borrow_and_update();
                let found = {
                    let (requests, counters) = &mut *self.state.lock();
                    find(requests.make_contiguous(), *counters)
                };
                if found.is_some() {
                    return found;
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(deadline, search).await.ok().flatten()
    }
}

#[derive(Debug)]
enum What {
    Connection,
    Stream,
}

/// Counts something as open until dropped.
#[derive(Debug)]
pub(crate) struct Open {
    recorder: Arc<Recorder>,
    what: What,
}

impl Drop for Open {
    fn drop(&mut self) {
        {
            let counters = &mut self.recorder.state.lock().1;
            match self.what {
                What::Connection => counters.connections_open -= 1,
                What::Stream => counters.streams_open -= 1,
            }
        }
        self.recorder.touch();
    }
}
