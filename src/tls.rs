//! TLS: the only layer that names rustls. PEM files, their reload schedule, server and client configurations.
