//! What is kept on disk: one log per view or set of entries, crash-safe.
