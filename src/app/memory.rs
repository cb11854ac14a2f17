//! The memory of the process, which is full of other people's secrets, stays in memory.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core dumps from now on, neither as a file nor for a program that the kernel would pipe them to: it takes a limit of
/// 0 bytes for files only, and of 1 byte for both (core(5), `kernel.core_pattern`).
pub(super) fn keep_from_disk() {
    let none = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps cannot be switched off: one would hold tokens, keys and Secrets");
    }
}
