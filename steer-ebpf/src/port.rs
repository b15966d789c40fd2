//! The ports of bridges.

use steer_common::shared::{INTERFACE_INSIDE, INTERFACE_OUTSIDE};

/// What the interface that a packet came in by is to a bridge.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Port {
    /// [`INTERFACE_OUTSIDE`], [`INTERFACE_INSIDE`] or `INTERFACE_WAITS`; 0: no port of a bridge.
    pub(crate) sides: u32,
}

impl Port {
    /// No port of a bridge.
    pub(crate) const NONE: Self = Self { sides: 0 };

    /// Whether it is a port of a bridge.
    #[inline(always)]
    pub(crate) fn is_bridges(self) -> bool {
        self.sides != 0
    }

    /// Whether clients' packets come in by it.
    #[inline(always)]
    pub(crate) fn is_outside(self) -> bool {
        self.sides & INTERFACE_OUTSIDE != 0
    }

    /// Whether backends' packets come in by it.
    #[inline(always)]
    pub(crate) fn is_inside(self) -> bool {
        self.sides & INTERFACE_INSIDE != 0
    }

    /// Whether it does not forward now.
    #[inline(always)]
    pub(crate) fn waits(self) -> bool {
        self.sides & (INTERFACE_OUTSIDE | INTERFACE_INSIDE) == 0 && self.is_bridges()
    }

    /// What forwarding takes from a packet's hop limit: a bridge takes nothing.
    #[inline(always)]
    pub(crate) fn hops(self) -> u8 {
        !self.is_bridges() as u8
    }
}
