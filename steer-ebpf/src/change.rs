//! What changes in a packet on its way through.

use steer_common::{
    flow::Direction,
    shared::{Address, Endpoint, Translation},
    splice,
    wire::tcp::Edits,
};

/// What changes in a packet on its way through.
#[repr(C)]
pub(crate) struct Change {
    /// Replaces the source (towards a client) or the destination (towards a backend).
    pub(crate) address: Address,
    /// Added to the sequence number.
    pub(crate) seq: u32,
    /// Added to the acknowledgement number, where it counts.
    pub(crate) ack: u32,
    /// Changes to the options.
    pub(crate) edits: Edits,
    /// Replaces the port of the same side, big-endian.
    pub(crate) port: [u8; 2],
    /// Replaces the port of the other side, the client's, big-endian; 0: it stays.
    pub(crate) client_port: [u8; 2],
    pub(crate) zero: u8,
    /// Taken from the hop limit: 1, or 0 at a bridge.
    pub(crate) hops: u8,
    /// Window scale that the sender uses.
    pub(crate) scale_from: u8,
    /// Window scale that the receiver goes by.
    pub(crate) scale_to: u8,
    /// Which side's address is replaced: the source's on the way to a client.
    pub(crate) direction: Direction,
    /// Whether a splice is applied: numbers, options and window change as well.
    pub(crate) spliced: bool,
    /// Whether the packet's checksum is the sum of all its segment.
    pub(crate) finished: bool,
}

impl Change {
    /// Nothing but the address and port of one side, and the client's port on the other.
    #[inline(always)]
    pub(crate) fn of_addresses(
        to: &Endpoint,
        direction: Direction,
        client_port: [u8; 2],
        finished: bool,
    ) -> Self {
        Self {
            address: to.address,
            seq: 0,
            ack: 0,
            edits: Edits { ts_value: 0, ts_echo: 0, sack: 0 },
            port: to.port,
            client_port,
            zero: 0,
            hops: 1,
            scale_from: 0,
            scale_to: 0,
            direction,
            spliced: false,
            finished,
        }
    }

    /// Adds the translation of a spliced flow.
    #[inline(always)]
    pub(crate) fn splice(&mut self, by: &Translation) {
        self.spliced = true;
        if self.direction == Direction::ToClient {
            self.seq = by.delta;
            self.edits = splice::to_client(by);
            self.scale_from = by.owner_scale;
            self.scale_to = by.first_scale;
        } else {
            self.ack = by.delta.wrapping_neg();
            self.edits = splice::to_owner(by);
            #[cfg(feature = "mutant-sack")]
            {
                self.edits.sack = 0;
            }
        }
    }
}
