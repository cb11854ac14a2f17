//! The HTTPS listener that local clients talk to.
