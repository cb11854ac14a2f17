//! What a list or a watch is answered from the cache: table 5.7 and the validation of 1.3 of the wire contract.
//!
//! Knows the request's options and the view's version, nothing else. Never answers with less than the client
//! knows already: a client that is ahead of the view keeps its own state.

use std::cmp::Ordering;
use std::fmt;

use crate::kube::media::Encoding;
use crate::kube::options::ListOptions;
use crate::kube::version::ResourceVersion;

/// Upstream's message for a `continue` token whose snapshot is gone (`AS/storage/etcd3/errors.go`).
pub const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list \
     result. You can start a new list without the continue parameter.";

/// Upstream's message for `resourceVersionMatch=Exact` at a version that is gone.
pub const EXACT_EXPIRED: &str = "The resourceVersion for the provided list is too old.";

/// The answer to an offline watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchAnswer {
    /// 200, headers at once, then this and silence (see [`super::hold`]).
    Hold(Opening),
    /// 200, then an ERROR event with Status 410 Expired and this message, then the end.
    Gone {
        /// Exactly as upstream words it.
        message: String,
    },
    /// 503, without Retry-After.
    Unavailable(Missing),
    /// 422.
    Invalid(Violation),
}

/// How a held watch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// What is sent at once.
    pub initial: Initial,
    /// What the client knows after that: the position of later bookmarks, and where upstream is resumed.
    pub known: ResourceVersion,
}

/// What a held watch sends at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Nothing.
    Nothing,
    /// ADDED for every item, in the order of `namespace/name` bytes.
    Items,
    /// The same, then a BOOKMARK at [`Opening::known`] annotated `k8s.io/initial-events-end: "true"`.
    ItemsAndBookmark,
}

/// The answer to an offline list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListAnswer {
    /// 200 with all items and no `continue`, whatever the limit.
    Serve,
    /// 410 Expired with this message: [`CONTINUE_EXPIRED`] or [`EXACT_EXPIRED`].
    Gone(&'static str),
    /// 503, without Retry-After.
    Unavailable(Missing),
    /// 422.
    Invalid(Violation),
}

/// Why there is nothing to answer with: of what the asking principal itself has read, and of nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Nothing is kept of it.
    NotRead,
    /// It was read, and is kept, in a form that the client does not take.
    OtherForm(ReadAs),
    /// What is kept of the resource is selected otherwise, or of another namespace.
    OtherPart,
    /// What is kept is older than what the client asks for, and knows.
    TooOld,
    /// It is known not to be what is kept any more, or what is known contradicts itself.
    Unclear,
    /// The apiserver has refused it since.
    Withdrawn,
    /// What was kept cannot be read.
    Damaged,
    /// The disk does not answer in time.
    SlowDisk,
}

/// A form in which something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadAs {
    /// Whole, in this encoding.
    Whole(Encoding),
    /// Only its metadata, in whatever encoding.
    Metadata,
    /// The rows that kubectl prints.
    Table,
    /// What a parameter that is not known has made of it.
    Unknown,
}

impl Missing {
    /// A short stable name for `Cache-Status`, logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRead => "not_read",
            Self::OtherForm(_) => "other_form",
            Self::OtherPart => "other_part",
            Self::TooOld => "too_old",
            Self::Unclear => "unclear",
            Self::Withdrawn => "withdrawn",
            Self::Damaged => "damaged",
            Self::SlowDisk => "slow_disk",
        }
    }
}

/// For a person who has asked for it.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRead => "this client has not read it before, or it was not kept",
            Self::OtherForm(form) => {
                return write!(f, "this client has read it before only {form}, and asks for another form now");
            }
            Self::OtherPart => {
                "this client has read only other parts of it before: from all of it edgehold selects namespaces, labels and \
                 names, and other fields only an apiserver"
            }
            Self::TooOld => "what is kept of it is older than what this client knows",
            Self::Unclear => "what is known of it does not say what it is now",
            Self::Withdrawn => "the apiserver has refused it to this client since it was read (403)",
            Self::Damaged => "what was kept of it cannot be read from the disk of this node",
            Self::SlowDisk => "the disk of this node does not answer in time",
        })
    }
}

impl ReadAs {
    /// Of the text of a representation (see [`Representation`](crate::kube::media::Representation)).
    pub fn of(representation: &str) -> Self {
        match Encoding::of_form(representation) {
            _ if representation.contains('=') => Self::Unknown,
            _ if representation.contains(";table/") => Self::Table,
            _ if representation.contains(";metadata/") => Self::Metadata,
            Some(encoding) => Self::Whole(encoding),
            None => Self::Unknown,
        }
    }
}

impl fmt::Display for ReadAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(Encoding::Json) => f.write_str("in JSON"),
            Self::Whole(Encoding::Yaml) => f.write_str("in YAML"),
            Self::Whole(Encoding::Protobuf) => f.write_str("in protobuf"),
            Self::Whole(Encoding::Cbor) => f.write_str("in CBOR"),
            Self::Metadata => f.write_str("as metadata"),
            Self::Table => f.write_str("as a table"),
            Self::Unknown => f.write_str("with a parameter that edgehold does not know"),
        }
    }
}

/// A rule for list options that the request breaks: 422 Invalid, kind ListOptions, group meta.k8s.io.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// List: resourceVersionMatch without resourceVersion.
    MatchWithoutVersion,
    /// resourceVersionMatch with continue.
    MatchWithContinue,
    /// List: resourceVersionMatch is neither Exact nor NotOlderThan.
    UnknownListMatch,
    /// List: Exact with resourceVersion 0.
    ExactZero,
    /// List: sendInitialEvents is for watches.
    InitialEventsOfList,
    /// Watch: sendInitialEvents needs resourceVersionMatch=NotOlderThan.
    InitialEventsWithoutMatch,
    /// Watch: resourceVersionMatch needs sendInitialEvents.
    MatchWithoutInitialEvents,
}

impl Violation {
    /// The option at fault, as it stands in `details.causes[].field`.
    pub fn field(self) -> &'static str {
        match self {
            Self::InitialEventsOfList => "sendInitialEvents",
            _ => "resourceVersionMatch",
        }
    }

    /// `details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownListMatch => "FieldValueNotSupported",
            _ => "FieldValueForbidden",
        }
    }

    /// `details.causes[].message`, as upstream words it (`AM/apis/meta/internalversion/validation`).
    pub fn message(self, options: &ListOptions) -> String {
        let forbidden = match self {
            Self::UnknownListMatch => {
                let value = &options.resource_version_match;
                return format!(
                    "Unsupported value: {value:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                );
            }
            Self::MatchWithoutVersion => {
                "resourceVersionMatch is forbidden unless resourceVersion is provided"
            }
            Self::MatchWithContinue => "resourceVersionMatch is forbidden when continue is provided",
            Self::ExactZero => "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            Self::InitialEventsOfList => "sendInitialEvents is forbidden for list",
            Self::InitialEventsWithoutMatch => {
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            }
            Self::MatchWithoutInitialEvents => {
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            }
        };
        format!("Forbidden: {forbidden}")
    }
}

/// What a watch is answered by a view at `view` (`None`: there is none).
pub fn watch(options: &ListOptions, view: Option<&ResourceVersion>) -> WatchAnswer {
    if let Some(violation) = violation_of_watch(options) {
        return WatchAnswer::Invalid(violation);
    }
    let knows = known(options);
    let initial = match (options.send_initial_events, options.allow_watch_bookmarks) {
        (Some(false), _) => Initial::Nothing,
        (None, _) if knows.is_some() => Initial::Nothing,
        (_, true) => Initial::ItemsAndBookmark,
        (_, false) => Initial::Items,
    };
    let hold = |known| WatchAnswer::Hold(Opening { initial, known });
    match (knows, view, initial) {
        // To say nothing needs no knowledge.
        (Some(c), None, Initial::Nothing) => hold(c),
        (_, None, _) => WatchAnswer::Unavailable(Missing::NotRead),
        (None, Some(at), _) => hold(at.clone()),
        (Some(c), Some(at), Initial::Nothing) if at.is_after(&c) => WatchAnswer::Gone {
            message: format!("too old resource version: {c} ({at})"),
        },
        (Some(c), Some(_), Initial::Nothing) => hold(c),
        (Some(c), Some(at), _) if covers(at, &c) => hold(at.clone()),
        // Not 504: client-go would ask again without a version and go back in time.
        (Some(_), Some(_), _) => WatchAnswer::Unavailable(Missing::TooOld),
    }
}

/// What a list is answered by a view at `view` (`None`: there is none).
pub fn list(options: &ListOptions, view: Option<&ResourceVersion>) -> ListAnswer {
    if let Some(violation) = violation_of_list(options) {
        return ListAnswer::Invalid(violation);
    }
    if !options.continue_token.is_empty() {
        return ListAnswer::Gone(CONTINUE_EXPIRED);
    }
    let Some(at) = view else {
        return ListAnswer::Unavailable(Missing::NotRead);
    };
    match known(options) {
        None => ListAnswer::Serve,
        Some(c) if options.resource_version_match == "Exact" && at.is_after(&c) => {
            ListAnswer::Gone(EXACT_EXPIRED)
        }
        Some(c) if covers(at, &c) => ListAnswer::Serve,
        Some(_) => ListAnswer::Unavailable(Missing::TooOld),
    }
}

/// What the client knows; "0" and unset say that it knows nothing.
fn known(options: &ListOptions) -> Option<ResourceVersion> {
    let version = options.resource_version.as_deref().and_then(ResourceVersion::new);
    version.filter(|c| c.as_str() != "0")
}

fn covers(at: &ResourceVersion, c: &ResourceVersion) -> bool {
    matches!(c.compare(at), Some(Ordering::Less | Ordering::Equal))
}

fn violation_of_list(options: &ListOptions) -> Option<Violation> {
    let matching = options.resource_version_match.as_str();
    if !matching.is_empty() {
        if options.resource_version.is_none() {
            return Some(Violation::MatchWithoutVersion);
        }
        if !options.continue_token.is_empty() {
            return Some(Violation::MatchWithContinue);
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            return Some(Violation::UnknownListMatch);
        }
        if matching == "Exact" && options.resource_version.as_deref() == Some("0") {
            return Some(Violation::ExactZero);
        }
    }
    let initial = options.send_initial_events.is_some();
    initial.then_some(Violation::InitialEventsOfList)
}

fn violation_of_watch(options: &ListOptions) -> Option<Violation> {
    let matching = options.resource_version_match.as_str();
    let initial = options.send_initial_events.is_some();
    if initial && matching != "NotOlderThan" {
        return Some(Violation::InitialEventsWithoutMatch);
    }
    if !matching.is_empty() && !initial {
        return Some(Violation::MatchWithoutInitialEvents);
    }
    (!matching.is_empty() && !options.continue_token.is_empty()).then_some(Violation::MatchWithContinue)
}

#[cfg(test)]
mod tests;
