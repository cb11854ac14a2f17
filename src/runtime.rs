//! Clock, tasks, drain, sockets and body helpers. Imports nothing of ours.

pub mod clock;
