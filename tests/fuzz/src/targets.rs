//! One check for each reader of foreign bytes. Each panics where something does not hold, and says whether the bytes were
//! taken for what they may be.

pub mod event;
pub mod filter;
pub mod frames;
pub mod gunzip;
pub mod jwt;
pub mod list;
pub mod object;
pub mod plain;
pub mod request;
pub mod status;
pub mod token;
