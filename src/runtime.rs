//! Clock, who answered, file events, jitter, codes of problems, sealing, sockets, tasks, strands and body helpers.
//! Imports nothing of ours.

pub mod aead;
pub mod author;
pub mod body;
pub mod clock;
pub mod file_mode;
pub(crate) mod files;
pub mod jitter;
pub mod problem;
pub mod shares;
pub mod socket;
pub mod strand;
pub mod tasks;
