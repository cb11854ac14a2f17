//! Tables with the two columns every kind has.

use serde_json::{Value, json};

use crate::clock;
use crate::encode::{Include, partial};

/// A `Table`; without columns it is a later event of a watch.
pub(crate) fn table(metadata: Value, rows: Vec<Value>, columns: bool, api_version: &str) -> Value {
    let columns = if columns {
        columns_of_any_kind()
    } else {
        Value::Null
    };
    json!({"kind": "Table", "apiVersion": api_version, "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn columns_of_any_kind() -> Value {
    json!([
        {"name": "Name", "type": "string", "format": "name", "description": "Name of the object", "priority": 0},
        {"name": "Age", "type": "date", "format": "", "description": "Time since creation", "priority": 0},
    ])
}

pub(crate) fn rows<'a>(objects: impl IntoIterator<Item = &'a Value>, include: Include) -> Vec<Value> {
    objects.into_iter().map(|o| row(o, include)).collect()
}

fn row(object: &Value, include: Include) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut row = json!({"cells": [name, age(object)]});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object, "meta.k8s.io/v1"),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

fn age(object: &Value) -> String {
    let created = object["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(clock::parse_rfc3339);
    match created.map(|at| clock::unix() - at) {
        None => "<unknown>".into(),
        Some(s) if s < 120 => format!("{s}s"),
        Some(s) if s < 7_200 => format!("{}m", s / 60),
        Some(s) if s < 172_800 => format!("{}h", s / 3_600),
        Some(s) => format!("{}d", s / 86_400),
    }
}
