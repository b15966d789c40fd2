//! What stands on the wire, read through one trait by kernel programs, tests, fuzzers and offline
//! tools.

pub mod ip;
pub mod proxy;
pub mod tcp;
pub mod tls;

/// Bytes of a frame or a message, readable at any offset.
pub trait Packet {
    /// `N` 32-bit words at `offset` (bytes from the first), each as it lies in memory; `None` where
    /// the packet ends before.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;

    /// The two bytes at `offset` as a big-endian number.
    fn be16(&self, offset: usize) -> Option<u16>;
}

impl Packet for [u8] {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.get(offset..offset.checked_add(N * 4)?)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(*bytes.first_chunk()?);
        }
        Some(words)
    }

    fn be16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes(*self.get(offset..)?.first_chunk()?))
    }
}

/// Byte `at` (0..=3) of a word as it lies in memory.
#[inline(always)]
pub const fn byte(word: u32, at: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * at)) as u8
}

/// The big-endian number in the first two bytes of a word.
#[inline(always)]
pub const fn upper(word: u32) -> u16 {
    (u32::from_be(word) >> 16) as u16
}

/// The big-endian number in the last two bytes of a word.
#[inline(always)]
pub const fn lower(word: u32) -> u16 {
    u32::from_be(word) as u16
}

/// Length of an Ethernet header, bytes (IEEE 802.3).
pub const ETHERNET_LEN: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
