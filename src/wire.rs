//! Bytes on the wire: schema-free split and join of objects, lists and watch streams.
