//! Who is on the wire.

use zerocopy::transmute;

/// An IP address: IPv6 as it is, IPv4 mapped into `::ffff:0:0/96` (RFC 4291 2.5.5.2). Big-endian.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address {
    bytes: [u8; 16],
}

impl Address {
    /// Makes an address from its 16 bytes in network order.
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// Maps an IPv4 address, four bytes in network order.
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]] }
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        self.bytes
    }

    /// The four 32-bit words as they lie in memory (network order bytes), for hashing and
    /// checksums.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        transmute!(self.bytes)
    }

    /// Makes an address of four 32-bit words as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { bytes: transmute!(words) }
    }

    /// Whether this is a mapped IPv4 address.
    pub const fn is_v4(&self) -> bool {
        let w = self.words();
        w[0] == 0 && w[1] == 0 && w[2] == 0x0000_ffff_u32.to_be()
    }
}

/// A transport endpoint: address, port and IP protocol; the key of `vips` and `backend_ids`.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Endpoint {
    /// IP address.
    pub address: Address,
    /// TCP port, big-endian.
    pub port: [u8; 2],
    /// IP protocol number (6 for TCP).
    pub protocol: u8,
    /// Always zero.
    pub zero: u8,
}

/// IP protocol number of TCP (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;

impl Endpoint {
    /// A TCP endpoint; `port` in host order.
    pub const fn tcp(address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), protocol: PROTOCOL_TCP, zero: 0 }
    }

    /// The port in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}
