//! The pipeline of a request: principal, limits, request info, route, forward or answer.
