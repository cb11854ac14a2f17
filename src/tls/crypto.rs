//! The cryptographic library, and its randomness.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Draws once from the random generator, so that the first client does not wait for its seeding (about 30 ms).
///
/// A failure is left to the first handshake to report: a node without entropy must still start.
pub fn warm_up() {
    let mut first_draw = [0_u8; 32];
    if aws_lc_rs::rand::fill(&mut first_draw).is_err() {
        tracing::warn!("the random generator could not be warmed up");
    }
}

/// The provider that every configuration names explicitly, so that no process-wide default is needed.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
