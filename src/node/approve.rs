//! Approves requests for edgehold's serving certificate, after looking at each (docs/serving-certificate.md).
//!
//! Runs on no node: with the rights of an administrator, or in the cluster with those of its own service account.

mod approver;
pub mod judge;
mod lease;
mod watch;

pub use self::approver::{Approver, Mode, NotApproved};
pub use self::watch::{Candidate, Done};
