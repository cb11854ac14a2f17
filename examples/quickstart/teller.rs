//! What is told, and whether it is true: prints requests and answers, and checks them.

use std::fmt::Debug;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver_standin::{Answer, Client, Connection, Lines};
use serde_json::Value;
use tokio::time::Instant;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// A client with the name under which it is spoken of.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
}

/// An open watch.
pub(crate) struct Watch {
    // The stream ends with its connection.
    _connection: Connection,
    lines: Lines,
}

/// Prints and checks.
pub(crate) struct Teller {
    out: Box<dyn Write + Send>,
    colours: bool,
    steps: usize,
    checks: usize,
    step: String,
    started: Instant,
}

impl Teller {
    /// Writes to `out`, in colours or plain.
    pub(crate) fn new(out: Box<dyn Write + Send>, colours: bool) -> Self {
        #[allow(clippy::disallowed_methods)] // a person wants to know how long it took
        let started = Instant::now();
        Self {
            out,
            colours,
            steps: 0,
            checks: 0,
            step: "the start".to_owned(),
            started,
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) -> anyhow::Result<()> {
        self.steps += 1;
        self.step = format!("step {}, {title:?},", self.steps);
        let heading = self.painted(BOLD, &format!("{}. {title}", self.steps));
        self.line(&format!("\n{heading}"))
    }

    /// A sentence.
    pub(crate) fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let text = self.painted(DIM, text);
        self.line(&format!("   {text}"))
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.out, "{text}").context("writing what is told")
    }

    /// What was seen and is as it should be.
    pub(crate) fn proof(&mut self, text: &str) -> anyhow::Result<()> {
        let ok = self.painted(GREEN, "ok");
        self.line(&format!("            {ok}  {text}"))
    }

    /// The end of the story.
    pub(crate) fn summary(&mut self) -> anyhow::Result<()> {
        let text = format!(
            "All {} steps are true ({} checks, {:.1} s).",
            self.steps,
            self.checks,
            self.started.elapsed().as_secs_f64()
        );
        let text = self.painted(GREEN, &text);
        self.line(&format!("\n{text}"))
    }

    /// Which step failed, and why.
    pub(crate) fn failure(&self, error: &anyhow::Error) -> String {
        format!("{} did not come true: {error:#}", self.step)
    }

    /// Fails unless `came` is `expected`.
    pub(crate) fn equal<T: PartialEq + Debug>(
        &mut self,
        what: &str,
        came: T,
        expected: T,
    ) -> anyhow::Result<()> {
        self.holds(
            came == expected,
            what,
            &format!("{expected:?}"),
            &format!("{came:?}"),
        )
    }

    /// Fails unless `came` contains `expected`.
    pub(crate) fn contains(&mut self, what: &str, came: &str, expected: &str) -> anyhow::Result<()> {
        let wanted = format!("something with {expected:?}");
        self.holds(came.contains(expected), what, &wanted, &format!("{came:?}"))
    }

    /// Fails unless it holds.
    pub(crate) fn holds(&mut self, it: bool, what: &str, expected: &str, came: &str) -> anyhow::Result<()> {
        self.checks += 1;
        if !it {
            bail!("{what}: expected {expected}, came {came}");
        }
        Ok(())
    }

    /// Sends a GET that must be answered with `status`.
    pub(crate) async fn get(&mut self, who: &Actor, target: &str, status: u16) -> anyhow::Result<Answer> {
        self.send(who, "GET", target, "", status).await
    }

    /// Sends a request that must be answered with `status`.
    pub(crate) async fn send(
        &mut self,
        who: &Actor,
        method: &str,
        target: &str,
        body: &'static str,
        status: u16,
    ) -> anyhow::Result<Answer> {
        self.request(who, method, target)?;
        let answer = who.client.send(method, target, body).await;
        let answer = answer.with_context(|| format!("{method} {target}: expected an answer, none came"))?;
        self.answer(answer.status, answer.header("cache-status"), answer.header("age"))?;
        let came = if answer.status == status {
            answer.status.to_string()
        } else {
            format!("{} {}", answer.status, answer.text())
        };
        let what = format!("{method} {target}");
        self.holds(answer.status == status, &what, &status.to_string(), &came)?;
        Ok(answer)
    }

    /// Sends a GET that must get no answer at all.
    pub(crate) async fn shut_out(&mut self, who: &Actor, target: &str) -> anyhow::Result<()> {
        self.request(who, "GET", target)?;
        let came = who
            .client
            .send("GET", target, "")
            .await
            .map(|answer| answer.status);
        let what = format!("GET {target}");
        self.holds(came.is_err(), &what, "no answer", &format!("{came:?}"))
    }

    /// Opens a watch.
    pub(crate) async fn watch(&mut self, who: &Actor, target: &str) -> anyhow::Result<Watch> {
        self.request(who, "GET", target)?;
        let mut connection = who.client.connect().await.context("connecting")?;
        let lines = connection.lines(target).await.context("opening a watch")?;
        let head = &lines.response;
        let text = |name: &str| {
            let value = head.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (status, cache_status) = (head.status().as_u16(), text("cache-status"));
        self.answer(status, &cache_status, "")?;
        self.equal(&format!("GET {target}"), status, 200)?;
        Ok(Watch {
            _connection: connection,
            lines,
        })
    }

    /// The next event of a watch must be of this type and about this object (none: a bookmark). Gives its
    /// resourceVersion.
    pub(crate) async fn event(
        &mut self,
        watch: &mut Watch,
        kind: &str,
        name: Option<&str>,
    ) -> anyhow::Result<String> {
        let event = watch.lines.next().await.context("reading the watch")?;
        let Some(event) = event else {
            bail!(
                "the watch: expected {kind} {}, came its end",
                name.unwrap_or_default()
            );
        };
        let came = (text(&event, "/type"), text(&event, "/object/metadata/name"));
        let expected = (kind.to_owned(), name.unwrap_or_default().to_owned());
        self.equal("the next event of the watch", came, expected)?;
        let version = text(&event, "/object/metadata/resourceVersion");
        let subject = match name {
            Some(name) => name.to_owned(),
            None => format!("at resourceVersion {version}"),
        };
        self.proof(&format!("{kind:<8} {subject}"))?;
        Ok(version)
    }

    /// Nothing may arrive on the watch for so long, and it may not end.
    pub(crate) async fn silence(&mut self, watch: &mut Watch, how_long: Duration) -> anyhow::Result<()> {
        let came = match tokio::time::timeout(how_long, watch.lines.next()).await {
            Err(_elapsed) => None,
            Ok(Ok(Some(event))) => Some(format!("the event {event}")),
            Ok(Ok(None)) => Some("its end".to_owned()),
            Ok(Err(error)) => Some(format!("a broken stream: {error}")),
        };
        let text = came.clone().unwrap_or_default();
        self.holds(came.is_none(), "the watch", "silence on an open stream", &text)
    }

    /// The watch must end cleanly, without another event.
    pub(crate) async fn end(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        let next = watch.lines.next().await.context("reading the watch")?;
        self.equal("the watch", next, None)
    }

    fn request(&mut self, who: &Actor, method: &str, target: &str) -> anyhow::Result<()> {
        let name = self.painted(BOLD, &format!("{:<10}", who.name));
        self.line(&format!("   {name} {method} {target}"))
    }

    fn answer(&mut self, status: u16, cache_status: &str, age: &str) -> anyhow::Result<()> {
        let colour = if status < 400 { GREEN } else { YELLOW };
        let mut text = self.painted(colour, &status.to_string());
        if !cache_status.is_empty() {
            text.push_str(&format!("   Cache-Status: {cache_status}"));
        }
        if !age.is_empty() {
            text.push_str(&format!("   Age: {age}"));
        }
        self.line(&format!("            {text}"))
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The text at a JSON pointer, empty if there is none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// The body of an answer as JSON.
pub(crate) fn json(answer: &Answer) -> anyhow::Result<Value> {
    serde_json::from_slice(&answer.body).with_context(|| format!("expected JSON, came {:?}", answer.text()))
}

/// The names of the items of a list, in order.
pub(crate) fn names(answer: &Answer) -> anyhow::Result<Vec<String>> {
    let list = json(answer)?;
    let items = list.pointer("/items").and_then(Value::as_array);
    let items = items.with_context(|| format!("expected a list, came {list}"))?;
    Ok(items.iter().map(|item| text(item, "/metadata/name")).collect())
}
