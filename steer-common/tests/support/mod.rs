//! Oracles shared by the tests: slow, plain and written without the code they judge.

/// The Internet checksum of `bytes` as the wire carries it (RFC 1071 4.1), big-endian byte pairs
/// added one by one.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
