//! The command line: `edgehold run | check | version`.
