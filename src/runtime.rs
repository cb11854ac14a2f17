//! Clock, file events, jitter, tasks, strands and body helpers. Imports nothing of ours.

pub mod body;
pub mod clock;
pub mod exposure;
pub(crate) mod files;
pub mod jitter;
pub mod strand;
pub mod tasks;
