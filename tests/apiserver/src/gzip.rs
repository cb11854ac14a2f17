//! gzip at level 1, as kube-apiserver compresses: whole, or piece by piece.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

/// One member that ends with a flush, as those of a watch do.
pub(crate) fn flushed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(bytes).expect("into memory");
    encoder.flush().expect("into memory");
    encoder.finish().expect("into memory")
}

/// Compresses a stream without holding it.
pub(crate) struct Stream(GzEncoder<Vec<u8>>);

impl Stream {
    pub(crate) fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::new(1)))
    }

    /// What can be sent after `bytes` came in; may be empty.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.write_all(bytes).expect("into memory");
        std::mem::take(self.0.get_mut())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.finish().expect("into memory")
    }
}
