//! Kubernetes' HTTP conventions as pure functions: request info, media types, resource versions, Status.
//!
//! Knows nothing of sockets, files or clocks.

pub mod event;
pub mod groups;
pub mod local;
pub mod media;
pub mod options;
pub mod request;
pub mod status;
pub mod version;
