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
/// Longest name of a pool without a VIP, bytes: it stands in place of an address.
pub const POOL_NAME_MAX: usize = 16;

impl Endpoint {
    /// A TCP endpoint; `port` in host order.
    pub const fn tcp(address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), protocol: PROTOCOL_TCP, zero: 0 }
    }

    /// What stands for a pool without a VIP where else a VIP stands: its name, which no packet can
    /// name (protocol 0, port 0). `None` where the name is empty, longer than [`POOL_NAME_MAX`] or
    /// has a zero byte.
    pub fn of_pool(name: &str) -> Option<Self> {
        let mut bytes = [0; POOL_NAME_MAX];
        let fits = !name.is_empty() && name.len() <= POOL_NAME_MAX && !name.contains('\0');
        bytes.get_mut(..name.len()).filter(|_| fits)?.copy_from_slice(name.as_bytes());
        Some(Self { address: Address::from_v6(bytes), ..Self::default() })
    }

    /// The name of the pool that it stands for; `None` where it is one that packets can name, or
    /// says nothing that is a name.
    pub fn pool_name(&self) -> Option<&str> {
        if self.protocol != 0 || self.port() != 0 {
            return None;
        }
        let bytes = &self.address.bytes;
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(POOL_NAME_MAX);
        let (name, rest) = bytes.split_at(len);
        let name = core::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        rest.iter().all(|byte| *byte == 0).then_some(name)
    }

    /// The port in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_name_where_a_vip_has_its_address() {
        for name in ["web", "0123456789abcdef"] {
            assert_eq!(Endpoint::of_pool(name).expect("a name").pool_name(), Some(name));
        }
        for name in ["", "0123456789abcdefg", "a\0b"] {
            assert_eq!(Endpoint::of_pool(name), None, "{name:?}");
        }
        for other in [
            Endpoint::default(),
            Endpoint::tcp(Address::from_v4([10, 0, 0, 1]), 443),
            Endpoint { port: [1, 187], ..Endpoint::of_pool("web").expect("a name") },
            Endpoint { address: Address::from_v6([0xff; 16]), ..Endpoint::default() },
        ] {
            assert_eq!(other.pool_name(), None, "{other:?}");
        }
    }
}
