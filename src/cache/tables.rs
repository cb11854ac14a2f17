//! The rows of a kept Table that a narrower collection has: what `kubectl get pods -l app=web` shows offline, where `kubectl
//! get pods` was read before. Each row holds the metadata of its object, by which it is told apart; everything else stays as it is.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::kube::media::{Encoding, Representation, Rows, Shape};
use crate::view::derive::Filter;

use super::documents::Chunks;
use super::stream::Batches;

/// Larger ones are given whole or not at all: one is held in memory to be gone through.
const LARGEST: usize = 8 << 20;

/// Why there are no rows.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unselected {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is larger than {LARGEST} bytes, or its rows do not say what they are of")]
    Inseparable,
}

/// As apiservers write it; whatever is in the parts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table<'t> {
    kind: &'t str,
    api_version: &'t str,
    #[serde(borrow)]
    metadata: &'t RawValue,
    #[serde(borrow)]
    column_definitions: &'t RawValue,
    #[serde(borrow)]
    rows: Vec<&'t RawValue>,
}

#[derive(Deserialize)]
struct Row {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: HashMap<String, String>,
}

/// Whether the rows of answers in this form can be told apart.
pub(super) fn is_separable(representation: &Representation) -> bool {
    let has_metadata = matches!(&representation.shape, Shape::Table(table) if table.rows != Rows::None);
    has_metadata && representation.encoding == Encoding::Json
}

/// The Table with those of its rows that pass. Blocks.
pub(super) fn select(mut table: Chunks, filter: &Filter) -> Result<Vec<u8>, Unselected> {
    let mut whole = Vec::new();
    while let Some(chunk) = table.next_batch() {
        whole.extend_from_slice(&chunk.map_err(Unselected::Unreadable)?);
        if whole.len() > LARGEST {
            return Err(Unselected::Inseparable);
        }
    }
    let mut table: Table<'_> = serde_json::from_slice(&whole).map_err(|_| Unselected::Inseparable)?;
    let mut selected = Vec::new();
    for row in table.rows {
        let parsed: Row = serde_json::from_str(row.get()).map_err(|_| Unselected::Inseparable)?;
        let Metadata {
            name,
            namespace,
            labels,
        } = parsed.object.metadata;
        if filter.passes(&namespace, &name, |label| labels.get(label).map(String::as_str)) {
            selected.push(row);
        }
    }
    table.rows = selected;
    let mut bytes = serde_json::to_vec(&table).map_err(|_| Unselected::Inseparable)?;
    // As apiservers end their JSON.
    bytes.push(b'\n');
    Ok(bytes)
}
