//! What stands in a packet and how it is changed: reading, options, checksums, making another one
//! of it.

pub(crate) mod options;
pub(crate) mod read;
pub(crate) mod rebuild;
pub(crate) mod sums;
