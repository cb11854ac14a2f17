//! The way to the cloud: servers, link state, connection pool and transports.
