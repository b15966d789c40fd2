//! TCP headers (RFC 9293 3.1) and a walker over their options.

use zerocopy::transmute;

use super::{Packet, byte, ip::Ip, lower};

/// Length of a TCP header without options, bytes.
pub const TCP_LEN: usize = 20;
/// Most bytes of options a TCP header can hold.
pub const OPTIONS_MAX: usize = 40;

/// Flag bits of a TCP header's 14th byte.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A parsed TCP segment: host-endian numbers, offsets in bytes from the start of the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian.
    pub destination_port: [u8; 2],
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window as on the wire.
    pub window: u16,
    /// Any of [`flags`].
    pub flags: u8,
    /// The AE bit, once NS (RFC 7560), which asks for AccECN in a SYN.
    pub accurate_ecn: bool,
    /// Length of the header with its options, bytes.
    pub header_len: usize,
    /// Length of the payload, bytes.
    pub payload_len: usize,
}

impl Segment {
    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// Whether any of `bits` is set.
    #[inline(always)]
    pub const fn any(&self, bits: u8) -> bool {
        self.flags & bits != 0
    }
}

/// Reads the TCP header behind `ip`; `None` where it is cut short or its length lies.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P, ip: &Ip) -> Option<Segment> {
    let h = packet.words::<{ TCP_LEN / 4 }>(ip.l4)?;
    let header_len = (byte(h[3], 0) >> 4) as usize * 4;
    if header_len < TCP_LEN || header_len > ip.l4_len {
        return None;
    }
    let ports: [[u8; 2]; 2] = transmute!(h[0]);
    Some(Segment {
        source_port: ports[0],
        destination_port: ports[1],
        seq: u32::from_be(h[1]),
        ack: u32::from_be(h[2]),
        window: lower(h[3]),
        flags: byte(h[3], 1),
        accurate_ecn: byte(h[3], 0) & 1 != 0,
        header_len,
        payload_len: ip.l4_len - header_len,
    })
}

/// Room for the options of one header; a power of two, so that a masked index is always inside.
pub const OPTIONS_ROOM: usize = 64;
const MASK: usize = OPTIONS_ROOM - 1;

/// Option kinds (IANA "TCP Option Kind Numbers").
pub mod kind {
    /// End of the option list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293 3.7.1).
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323 2).
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgement permitted (RFC 2018 2).
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgement (RFC 2018 3).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323 3).
    pub const TIMESTAMPS: u8 = 8;
    /// MD5 signature (RFC 2385).
    pub const MD5: u8 = 19;
    /// TCP authentication option (RFC 5925).
    pub const AUTHENTICATION: u8 = 29;
}

/// A position in the options of one header, advanced one step at a time.
///
/// The walker lives wherever its caller keeps it (a map value in the kernel); each step
/// ([`Walker::translate`], [`Walker::read_offer`]) is small and bounded, so that a verifier checks
/// it once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    /// The options, `len` bytes of them.
    pub bytes: [u8; OPTIONS_ROOM],
    /// Length of the options, bytes, at most [`OPTIONS_MAX`].
    pub len: u32,
    /// Where the next option starts.
    pub offset: u32,
    /// Words of a SACK option still to be edited, or bytes of an option still to be cleared.
    pub edges_left: u32,
    /// One's complement sum of all changes, ready to be folded into a checksum whose field is
    /// even-aligned.
    pub difference: u64,
}

/// What one step of a [`Walker`] met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An option; walk on.
    More,
    /// The list is over.
    Done,
    /// A length lies; nothing behind it can be trusted.
    Malformed,
}

impl Walker {
    /// A walker with nothing to walk.
    pub const fn empty() -> Self {
        Self { bytes: [0; OPTIONS_ROOM], len: 0, offset: 0, edges_left: 0, difference: 0 }
    }

    /// Starts again at the first option, which is `len` bytes before the last.
    #[inline(always)]
    pub fn rewind(&mut self, len: u32) {
        self.len = len;
        self.offset = 0;
        self.edges_left = 0;
        self.difference = 0;
    }

    /// The option at the walker's position: its kind and whole length; `Err` says why there is
    /// none.
    #[inline(always)]
    fn option(&self) -> Result<(u8, u32), Step> {
        let at = self.offset as usize & MASK;
        if at as u32 >= self.len {
            return Err(Step::Done);
        }
        match self.bytes[at] {
            kind::END => Err(Step::Done),
            kind::NOP => Ok((kind::NOP, 1)),
            other => {
                let len = self.bytes[(at + 1) & MASK] as u32;
                if len < 2 || at as u32 + len > self.len {
                    Err(Step::Malformed)
                } else {
                    Ok((other, len))
                }
            }
        }
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u32 {
        let b = |i: usize| self.bytes[(at + i) & MASK];
        u32::from_be_bytes([b(0), b(1), b(2), b(3)])
    }

    /// Adds `add` to the big-endian word at `at` and accounts for the change.
    #[inline(always)]
    fn edit(&mut self, at: usize, add: u32) {
        let old = self.word(at);
        let new = old.wrapping_add(add);
        let b = new.to_be_bytes();
        self.bytes[at & MASK] = b[0];
        self.bytes[(at + 1) & MASK] = b[1];
        self.bytes[(at + 2) & MASK] = b[2];
        self.bytes[(at + 3) & MASK] = b[3];
        let difference = crate::checksum::fold(!old.to_be() as u64 + new.to_be() as u64);
        // A word at an odd offset contributes its bytes swapped (RFC 1071 2B).
        let swap = (at as u32 & 1) * 8;
        let folded = difference as u32;
        self.difference += ((folded << swap | folded >> (16 - swap)) & 0xffff) as u64;
    }
}

/// What a splice adds to the options of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Added to TSval.
    pub ts_value: u32,
    /// Added to TSecr.
    pub ts_echo: u32,
    /// Added to every SACK edge.
    pub sack: u32,
}

impl Walker {
    /// Translates one option, or one edge of a SACK option.
    #[inline(always)]
    pub fn translate(&mut self, edits: &Edits) -> Step {
        let at = self.offset as usize & MASK;
        if self.edges_left != 0 {
            self.edit(at, edits.sack);
            self.edges_left -= 1;
            self.offset = at as u32 + 4;
            return Step::More;
        }
        let (kind, len) = match self.option() {
            Ok(option) => option,
            Err(step) => return step,
        };
        let mut advance = len;
        if kind == kind::TIMESTAMPS && len == 10 {
            self.edit(at + 2, edits.ts_value);
            self.edit(at + 6, edits.ts_echo);
        } else if kind == kind::SACK && len & 7 == 2 {
            // RFC 2018 3: length 8n + 2, two edges a block.
            self.edges_left = len >> 2;
            advance = 2;
        }
        self.offset = at as u32 + advance;
        Step::More
    }
}

/// Steps that any option list needs at the most: one a byte, and one to find its end.
pub const MAX_STEPS: u32 = 41;

/// What a SYN or SYN-ACK offers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// TSval, if timestamps are offered.
    pub ts: u32,
    /// TSecr, if timestamps are offered.
    pub ts_echo: u32,
    /// MSS; 536 where none is named (RFC 9293 3.7.1).
    pub mss: u16,
    /// Offset of the MSS value in the options plus one; 0 where there is none.
    pub mss_at: u16,
    /// Window scale, at most 14 (RFC 7323 2.3).
    pub scale: u8,
    /// Any of [`crate::shared::options`] but ECN.
    pub options: u8,
    /// Options that would keep the flow from moving: replaced by NOP where asked for.
    pub cleared: u8,
    /// Always zero.
    pub zero: u8,
}

impl Offer {
    /// What a SYN without options offers.
    pub const NOTHING: Self =
        Self { ts: 0, ts_echo: 0, mss: 536, mss_at: 0, scale: 0, options: 0, cleared: 0, zero: 0 };
}

impl Walker {
    /// Reads one option of a SYN or SYN-ACK into `offer`; with `clear`, options that would keep the
    /// flow from moving (TCP Fast Open, MPTCP, unknown ones) become NOPs. Signed options are never
    /// touched.
    #[inline(always)]
    pub fn read_offer(&mut self, offer: &mut Offer, clear: bool) -> Step {
        use crate::shared::options;
        let at = self.offset as usize & MASK;
        if self.edges_left != 0 {
            self.clear_byte(at);
            self.edges_left -= 1;
            self.offset = at as u32 + 1;
            return Step::More;
        }
        let (kind, len) = match self.option() {
            Ok(option) => option,
            Err(step) => return step,
        };
        match (kind, len) {
            (kind::NOP, _) => {}
            (kind::MSS, 4) => {
                offer.mss = (self.word(at) & 0xffff) as u16;
                offer.mss_at = at as u16 + 3;
            }
            (kind::WINDOW_SCALE, 3) => {
                offer.scale = self.bytes[(at + 2) & MASK].min(14);
                offer.options |= options::WINDOW_SCALE;
            }
            (kind::SACK_PERMITTED, 2) => offer.options |= options::SACK,
            (kind::TIMESTAMPS, 10) => {
                offer.options |= options::TIMESTAMPS;
                offer.ts = self.word(at + 2);
                offer.ts_echo = self.word(at + 6);
            }
            (kind::MD5 | kind::AUTHENTICATION, _) => offer.options |= options::SIGNED,
            _ => {
                offer.cleared = offer.cleared.wrapping_add(1);
                if clear {
                    // One byte a step, this one included: no list needs more steps than it has
                    // bytes.
                    self.clear_byte(at);
                    self.edges_left = len - 1;
                    self.offset = at as u32 + 1;
                    return Step::More;
                }
            }
        }
        self.offset = at as u32 + len;
        Step::More
    }

    #[inline(always)]
    fn clear_byte(&mut self, at: usize) {
        let old = self.bytes[at & MASK];
        self.bytes[at & MASK] = kind::NOP;
        // The byte's place in its 16-bit word, in memory order.
        let shift = (at as u32 & 1) * 8;
        let (old, new) = (
            u16::to_be((old as u16) << (8 - shift)),
            u16::to_be((kind::NOP as u16) << (8 - shift)),
        );
        self.difference += (!old) as u64 + new as u64;
    }
}
