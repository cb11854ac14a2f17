//! Rewrites one answer as it passes.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Outcome, Rewrite};
use crate::kube::media::Encoding;
use crate::kube::request::{ResourceRequest, Verb};
use crate::wire::edit::{Field, Message, edit_frame, edit_object};
use crate::wire::list::ListSplicer;
use crate::wire::object::read_object;
use crate::wire::watch::{FrameReader, WatchEvent, read_event};
use crate::wire::{MAX_ITEM, WireError};

const KIND: Field = Field::new("kind", 0);

/// One body on its way to a client, pushed in pieces of any size. Holds at most one object, item or frame, and of a
/// protobuf list its first mebibyte ([`ListSplicer`]).
#[derive(Debug)]
pub struct Rewriter {
    rewrite: Rewrite,
    encoding: Encoding,
    form: Form,
    seen: Vec<Outcome>,
}

#[derive(Debug)]
enum Form {
    /// Held until it is whole. `None` once it has become larger than any object, and passes.
    Object {
        held: Option<Vec<Bytes>>,
        len: usize,
        out: VecDeque<Bytes>,
    },
    List(Box<ListSplicer>),
    Watch {
        frames: FrameReader,
        out: VecDeque<Bytes>,
    },
}

impl Rewrite {
    /// A rewriter for the whole body (decompressed) of an answer 200 to this request; `None` for one that is always
    /// passed as it is (YAML).
    pub fn rewriter(self, request: &ResourceRequest, encoding: Encoding) -> Option<Rewriter> {
        let form = match request.verb {
            Verb::Get => Form::Object {
                held: Some(Vec::new()),
                len: 0,
                out: VecDeque::new(),
            },
            Verb::List => Form::List(Box::new(ListSplicer::new(encoding, self.kind.list_kind()).ok()?)),
            Verb::Watch => Form::Watch {
                frames: FrameReader::new(encoding).ok()?,
                out: VecDeque::new(),
            },
            _ => return None,
        };
        (encoding != Encoding::Yaml).then_some(Rewriter {
            rewrite: self,
            encoding,
            form,
            seen: Vec::new(),
        })
    }
}

impl Rewriter {
    /// Takes bytes of the body, cut anywhere.
    ///
    /// # Errors
    /// The body cannot be passed on truthfully any more and has to be broken off: no watch stream, or a long protobuf
    /// list that turns out to be none.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), WireError> {
        let (rewrite, encoding, seen) = (&self.rewrite, self.encoding, &mut self.seen);
        match &mut self.form {
            Form::Object { held, len, out } => {
                *len += chunk.len();
                match held {
                    Some(pieces) => pieces.push(chunk),
                    None => out.push_back(chunk),
                }
                if *len > MAX_ITEM {
                    out.extend(held.take().into_iter().flatten());
                }
                Ok(())
            }
            Form::List(splicer) => splicer.push(chunk, &mut |item| {
                let object = Message::new(encoding, item.bytes);
                if !rewrite.is_meant(&item.meta) {
                    return None;
                }
                let kind = match encoding {
                    Encoding::Protobuf => String::new(),
                    _ => object.text(KIND).ok()?,
                };
                rewrite.object(&kind, &item.meta, object, seen)
            }),
            Form::Watch { frames, out } => {
                frames.push(chunk);
                while let Some(frame) = frames.next()? {
                    out.push_back(rewrite.frame(encoding, &frame, seen).unwrap_or(frame));
                }
                Ok(())
            }
        }
    }

    /// What can go out next.
    pub fn take(&mut self) -> Option<Bytes> {
        match &mut self.form {
            Form::Object { out, .. } | Form::Watch { out, .. } => out.pop_front(),
            Form::List(splicer) => splicer.take(),
        }
    }

    /// What became of the objects that came by since this was last asked.
    pub fn seen(&mut self) -> std::vec::Drain<'_, Outcome> {
        self.seen.drain(..)
    }

    /// The body has ended cleanly; what [`Rewriter::take`] still gives is the rest.
    ///
    /// # Errors
    /// It ended inside a frame, or inside a long protobuf list: to be broken off.
    pub fn finish(&mut self) -> Result<(), WireError> {
        match &mut self.form {
            Form::Object { held, out, .. } => {
                let Some(pieces) = held.take() else {
                    return Ok(());
                };
                match self.rewrite.body(self.encoding, &pieces.concat(), &mut self.seen) {
                    Some(edited) => out.push_back(edited),
                    None => out.extend(pieces),
                }
                Ok(())
            }
            Form::List(splicer) => splicer.finish(),
            Form::Watch { frames, .. } if frames.pending() > 0 => Err(WireError::Truncated("a watch frame")),
            Form::Watch { .. } => Ok(()),
        }
    }
}

impl Rewrite {
    /// A whole body, if it is to be another.
    fn body(&self, encoding: Encoding, body: &[u8], seen: &mut Vec<Outcome>) -> Option<Bytes> {
        let object = read_object(encoding, body).ok()?;
        let edited = edit_object(encoding, body, &mut |message| {
            Ok(self.object(&object.type_meta.kind, &object.meta, message, seen))
        });
        edited.ok()?.map(Bytes::from)
    }

    /// A whole frame, if it is to be another.
    fn frame(&self, encoding: Encoding, frame: &[u8], seen: &mut Vec<Outcome>) -> Option<Bytes> {
        let Ok(WatchEvent::Item { object, .. }) = read_event(encoding, frame) else {
            return None;
        };
        let edited = edit_frame(encoding, frame, &mut |message| {
            Ok(self.object(&object.type_meta.kind, &object.meta, message, seen))
        });
        edited.ok()?.map(Bytes::from)
    }
}
