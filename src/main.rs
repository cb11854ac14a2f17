//! The `edgehold` binary: see `edgehold help`.

fn main() {}
