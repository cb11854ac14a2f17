//! Clock, jitter, tasks, strands and body helpers. Imports nothing of ours.

pub mod body;
pub mod clock;
pub mod jitter;
pub mod strand;
pub mod tasks;
