//! Bodies that tests send and compare: bytes of a known pattern, and their SHA-256.

use ring::digest::{Context, SHA256};

/// `len` bytes that do not repeat; the same seed gives the same bytes.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// How many bytes are not those that were sent; what is missing at the end is none of them.
pub fn n_wrong(came: &[u8], sent: &[u8]) -> usize {
    let beyond = came.len().saturating_sub(sent.len());
    came.iter().zip(sent).filter(|(came, sent)| came != sent).count() + beyond
}

/// SHA-256 of `bytes`, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let mut sum = Sum::new();
    sum.update(bytes);
    sum.hex()
}

/// SHA-256 of what comes in pieces.
pub struct Sum {
    context: Context,
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

impl Sum {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self { context: Context::new(&SHA256) }
    }

    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.context.update(piece);
    }

    /// The sum in hexadecimal.
    pub fn hex(self) -> String {
        self.context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
