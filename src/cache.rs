//! What was read before: keys, recording (tee) and answering from it while the cloud is away.
