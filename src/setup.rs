//! Putting edgehold on a node, and taking it away: `edgehold install` and `edgehold uninstall`.
//!
//! [`Facts`] are looked up first, all of them; [`install`] and [`uninstall`] are pure and turn them into a [`Plan`], or into what is
//! in the way; [`Executor`] carries a plan out, step by step. A dry run is a plan that is only printed.
//!
//! Invariants: at every moment, also after a step that failed or a process that was killed, each kubeconfig on the node
//! works: it is replaced at once and only after edgehold has answered at its address. Doing it again goes on where it
//! stopped. What was not written by install is never overwritten or removed. No key is ever shown.

mod authority;
mod configuration;
mod execute;
mod facts;
mod host;
mod install;
mod kubeconfigs;
pub mod lite_apiserver;
mod paths;
mod proxy;
mod root;
mod step;
mod uninstall;
pub mod unit;

pub use execute::{ExecuteError, Executor};
pub use facts::{FactError, Facts, Kubelet, Options, Replace, ServingCertificate};
pub use host::{Host, Manager, Port, Running, Scratch};
pub use install::install;
pub use root::Root;
pub use step::{Plan, Problem, Step, SystemdAction};
pub use uninstall::{Data, uninstall};
