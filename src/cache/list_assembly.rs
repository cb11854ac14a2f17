//! Puts a list, or the initial events of a watch, together again from a stored view, piece by piece.

use bytes::{Bytes, BytesMut};

use crate::kube::event::EventType;
use crate::kube::version::ResourceVersion;
use crate::store::Items;
use crate::view::derive::Filter;
use crate::wire::collection::{Collection, ItemTotals};
use crate::wire::object::read_item;

use super::collection::ViewRead;
use super::stream::{BATCH, Batches};

/// The items of a view that pass a filter.
pub(super) struct Selected {
    items: Items,
    filter: Filter,
    form: Collection,
}

impl Selected {
    pub(super) fn of(read: &ViewRead, filter: &Filter) -> Self {
        Self {
            items: read.items.iter(),
            filter: filter.clone(),
            form: read.form.clone(),
        }
    }
}

impl Iterator for Selected {
    type Item = Result<Bytes, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = match self.items.next()? {
                Ok(item) => item,
                Err(error) => return Some(Err(error.to_string())),
            };
            if self.filter.passes_all() {
                return Some(Ok(item));
            }
            match read_item(self.form.encoding, &item) {
                Ok(meta) => {
                    let label = |key: &str| meta.labels.get(key).map(String::as_str);
                    if self.filter.passes(&meta.namespace, &meta.name, label) {
                        return Some(Ok(item));
                    }
                }
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }
}

/// How much a list will hold: known from the index where nothing is filtered, else by reading it once. Blocks.
pub(super) fn totals(read: &ViewRead, filter: &Filter) -> Result<ItemTotals, String> {
    if filter.passes_all() {
        return Ok(read.form.totals(read.items.value_lens()));
    }
    Selected::of(read, filter).try_fold(ItemTotals::default(), |totals, item| {
        Ok(totals.with(read.form.encoded_len(item?.len())))
    })
}

/// The bytes of a list answer.
pub(super) struct ListBytes {
    head: Option<Vec<u8>>,
    items: Selected,
    tail: Option<Vec<u8>>,
    index: usize,
}

impl ListBytes {
    /// The list of `read` through `filter`, and its exact length.
    pub(super) fn new(read: &ViewRead, filter: &Filter, totals: ItemTotals) -> (Self, u64) {
        let (form, rv) = (&read.form, read.version.as_str());
        let length = form.list_len(rv, totals);
        let bytes = Self {
            head: Some(form.list_head(rv, totals)),
            items: Selected::of(read, filter),
            tail: Some(form.list_tail(rv)),
            index: 0,
        };
        (bytes, length)
    }
}

impl Batches for ListBytes {
    fn next_batch(&mut self) -> Option<Result<Bytes, String>> {
        let mut batch = BytesMut::with_capacity(BATCH);
        if let Some(head) = self.head.take() {
            batch.extend_from_slice(&head);
        }
        while batch.len() < BATCH {
            match self.items.next() {
                Some(Ok(item)) => {
                    batch.extend_from_slice(&self.items.form.item_prefix(self.index, item.len()));
                    batch.extend_from_slice(&item);
                    self.index += 1;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    batch.extend_from_slice(&self.tail.take()?);
                    break;
                }
            }
        }
        Some(Ok(batch.freeze()))
    }
}

/// The initial events of a watch: ADDED for every item in key order, then possibly a bookmark.
pub(super) struct InitialEvents {
    items: Selected,
    bookmark: Option<Vec<u8>>,
}

impl InitialEvents {
    pub(super) fn new(read: &ViewRead, filter: &Filter, end_bookmark: Option<&ResourceVersion>) -> Self {
        let bookmark = end_bookmark.map(|version| read.form.bookmark(version.as_str(), true));
        Self {
            items: Selected::of(read, filter),
            bookmark,
        }
    }
}

impl Batches for InitialEvents {
    fn next_batch(&mut self) -> Option<Result<Bytes, String>> {
        let mut batch = BytesMut::new();
        while batch.len() < BATCH {
            match self.items.next() {
                Some(Ok(item)) => {
                    batch.extend_from_slice(&self.items.form.event(EventType::Added, &item));
                }
                Some(Err(error)) => return Some(Err(error)),
                None => match self.bookmark.take() {
                    Some(bookmark) => batch.extend_from_slice(&bookmark),
                    None => break,
                },
            }
        }
        (!batch.is_empty()).then(|| Ok(batch.freeze()))
    }
}
