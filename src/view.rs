//! What one principal knows of one collection: the pure view state machine, pages, offline answers, selectors.
//!
//! Everything here decides and nothing acts: items and bytes live in the store, sockets and clocks with the
//! callers. The rules are V1-V8, lemma 5.6 and table 5.7 of the wire contract. Two invariants hold throughout:
//! a view's version R is never above its content, and no version is ever invented or raised.

pub mod derive;
pub mod event;
pub mod hold;
pub mod key;
pub mod machine;
pub mod newest;
pub mod offline;
pub mod pages;
pub mod selector;
