//! What the apiserver of the simulation answers, and what that tells.

use http::StatusCode;

use super::cloud::{APPS, By, Key, Selection, Thing, list, object};
use super::oracle::Told;
use super::{Ask, Freshness, Mode, World};
use crate::kube::media::Encoding;
use crate::kube::status::{Details, Status};
use crate::wire::status::encode_status;

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) encoding: Encoding,
    pub(super) body: Vec<u8>,
    /// The revision at which it is true.
    pub(super) at: u64,
    pub(super) told: Vec<Told>,
}

impl World {
    pub(super) fn reply(&mut self, ask: &Ask, encoding: Encoding) -> Reply {
        match *ask {
            Ask::Get(key, freshness) => {
                if self.one_in(20) {
                    return self.refusal(StatusCode::FORBIDDEN, encoding, key, vec![Told::Forbidden(key)]);
                }
                let at = self.position(freshness);
                match self.cloud.then(key, at).cloned() {
                    Some(thing) => Reply {
                        status: StatusCode::OK,
                        encoding,
                        body: object(encoding, &thing),
                        at,
                        told: vec![Told::Seen(thing)],
                    },
                    None => Reply {
                        at,
                        ..self.refusal(
                            StatusCode::NOT_FOUND,
                            encoding,
                            key,
                            vec![Told::Gone { key, uid: None }],
                        )
                    },
                }
            }
            Ask::List(selection, freshness) => {
                let at = self.position(freshness);
                Reply {
                    status: StatusCode::OK,
                    encoding,
                    body: list(encoding, &self.cloud.state(&selection, at), at),
                    at,
                    told: vec![Told::Listed(selection, encoding)],
                }
            }
            Ask::Create(..) | Ask::Change(..) => self.reply_to_update(ask, encoding),
            Ask::Delete(..) | Ask::DeleteAll(..) => self.reply_to_delete(ask, encoding),
        }
    }

    /// Where the answer comes from: a cache may lag.
    fn position(&mut self, freshness: Freshness) -> u64 {
        let lag = match freshness {
            Freshness::Latest => 0,
            Freshness::Lagging => self.chance.below(6) as u64,
        };
        (self.cloud.head - lag).max(95)
    }

    /// A `Status` that names the object, as an apiserver's does.
    fn refusal(&self, status: StatusCode, encoding: Encoding, key: Key, told: Vec<Told>) -> Reply {
        Reply {
            status,
            encoding,
            body: encode_status(
                encoding,
                &Status {
                    code: status,
                    reason: "".into(),
                    message: String::new(),
                    details: Some(Box::new(Details {
                        name: key.1.to_owned(),
                        ..Details::default()
                    })),
                    retry_after_seconds: None,
                },
            ),
            at: self.cloud.head,
            told,
        }
    }

    fn reply_to_update(&mut self, ask: &Ask, encoding: Encoding) -> Reply {
        let (gap, app) = (self.gap(), self.pick(&APPS));
        let held = self.one_in(4);
        let (thing, mode) = match *ask {
            Ask::Create(key, Mode::Real) => (self.cloud.create(key, gap, (app, held)), Mode::Real),
            Ask::Change(key, Mode::Real) => (self.cloud.change(key, gap, app), Mode::Real),
            // What would be, at a version of before.
            Ask::Create(key, Mode::Dry) if self.cloud.get(key).is_none() => {
                let would_be = Thing {
                    key,
                    uid: 7777,
                    version: self.cloud.head,
                    app,
                    held,
                    deleting: false,
                };
                (Some(would_be), Mode::Dry)
            }
            Ask::Change(key, Mode::Dry) => {
                let would_be = self.cloud.get(key).map(|thing| Thing { app, ..thing.clone() });
                (would_be, Mode::Dry)
            }
            _ => (None, Mode::Dry),
        };
        let Some(thing) = thing else {
            let (Ask::Create(key, _) | Ask::Change(key, _)) = *ask else {
                unreachable!("{ask:?} updates nothing");
            };
            return self.refusal(StatusCode::CONFLICT, encoding, key, Vec::new());
        };
        let is_gone = thing.deleting && !thing.held;
        let told = match mode {
            Mode::Dry => Vec::new(),
            Mode::Real if is_gone => vec![Told::Gone {
                key: thing.key,
                uid: Some(thing.uid),
            }],
            Mode::Real => vec![Told::Seen(thing.clone())],
        };
        Reply {
            status: StatusCode::OK,
            encoding,
            body: object(encoding, &thing),
            at: self.cloud.head,
            told,
        }
    }

    fn reply_to_delete(&mut self, ask: &Ask, encoding: Encoding) -> Reply {
        let gap = self.gap();
        match *ask {
            Ask::DeleteAll(namespace, app) => {
                let selection = Selection {
                    namespace: Some(namespace),
                    by: By::App(app),
                };
                let doomed = self.cloud.state(&selection, self.cloud.head);
                let body = list(encoding, &doomed, self.cloud.head);
                for thing in &doomed {
                    let _kept = self.cloud.delete(thing.key, gap);
                }
                Reply {
                    status: StatusCode::OK,
                    encoding,
                    body,
                    at: self.cloud.head,
                    told: doomed.into_iter().map(Told::Doomed).collect(),
                }
            }
            Ask::Delete(key, Mode::Real) => match self.cloud.delete(key, gap) {
                None => {
                    let gone = Told::Gone { key, uid: None };
                    self.refusal(StatusCode::NOT_FOUND, encoding, key, vec![gone])
                }
                Some(Ok(kept)) => Reply {
                    status: StatusCode::OK,
                    encoding,
                    body: object(encoding, &kept),
                    at: self.cloud.head,
                    told: vec![Told::Seen(kept)],
                },
                Some(Err(uid)) => self.deleted(key, uid),
            },
            Ask::Delete(key, Mode::Dry) if self.cloud.get(key).is_some() => {
                let dry = self.deleted(key, self.cloud.get(key).map_or(0, |thing| thing.uid));
                Reply {
                    told: Vec::new(),
                    ..dry
                }
            }
            Ask::Delete(key, Mode::Dry) => self.refusal(StatusCode::NOT_FOUND, encoding, key, Vec::new()),
            _ => unreachable!("{ask:?} deletes nothing"),
        }
    }

    fn deleted(&self, key: Key, uid: u64) -> Reply {
        let body = format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Success","details":{{"name":"{}","kind":"configmaps","uid":"u{uid}"}}}}"#,
            key.1
        );
        Reply {
            status: StatusCode::OK,
            encoding: Encoding::Json,
            body: body.into_bytes(),
            at: self.cloud.head,
            told: vec![Told::Gone { key, uid: Some(uid) }],
        }
    }
}
