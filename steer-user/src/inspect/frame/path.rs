//! The tags and tunnels that a segment was found in: what tells apart two networks that use the
//! same addresses.

use std::fmt;

/// Tags and tunnels that are noted; those further in are passed over.
const LAYERS: usize = 6;

/// What kind of tag or tunnel.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layer {
    /// Nothing.
    #[default]
    None,
    /// A VLAN tag; its number.
    Vlan,
    /// The bottom label of an MPLS stack; its number.
    Mpls,
    /// A PPPoE session; its number.
    Pppoe,
    /// IP in IP; its two ends.
    IpInIp,
    /// GRE without a key; its two ends.
    Gre,
    /// GRE with a key.
    GreKey,
    /// An ERSPAN session; its number.
    Erspan,
    /// VXLAN; its network identifier.
    Vxlan,
    /// Geneve; its network identifier.
    Geneve,
    /// GTP-U; its tunnel endpoint identifier.
    Gtp,
    /// L2TP; tunnel and session.
    L2tp,
    /// A provider backbone bridge's service instance.
    Pbb,
}

/// Tags and tunnels, the outermost first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    layers: [(Layer, u32); LAYERS],
    n: u8,
}

impl Path {
    /// Notes one further in.
    pub(super) fn push(&mut self, layer: Layer, number: u32) {
        if let Some(place) = self.layers.get_mut(usize::from(self.n)) {
            *place = (layer, number);
            self.n += 1;
        }
    }

    fn layers(&self) -> &[(Layer, u32)] {
        &self.layers[..usize::from(self.n)]
    }

    /// A number that is another for another path, but for a chance in 2^64; 0: no tags, no tunnels.
    pub(crate) fn digest(&self) -> u64 {
        /// 2^64 divided by the golden ratio: spreads what is alike.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.layers().iter().fold(0, |digest: u64, (layer, number)| {
            let word = (*layer as u64) << 32 | u64::from(*number);
            (digest.rotate_left(29) ^ word).wrapping_mul(SPREAD) ^ digest >> 32
        })
    }

    /// Whether there are no tags and no tunnels.
    pub(crate) fn is_empty(&self) -> bool {
        self.n == 0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (layer, number)) in self.layers().iter().enumerate() {
            if index != 0 {
                f.write_str(" / ")?;
            }
            match layer {
                Layer::None => Ok(()),
                Layer::Vlan => write!(f, "VLAN {number}"),
                Layer::Mpls => write!(f, "MPLS {number}"),
                Layer::Pppoe => write!(f, "PPPoE {number}"),
                Layer::IpInIp => f.write_str("IP in IP"),
                Layer::Gre => f.write_str("GRE"),
                Layer::GreKey => write!(f, "GRE {number}"),
                Layer::Erspan => write!(f, "ERSPAN {number}"),
                Layer::Vxlan => write!(f, "VXLAN {number}"),
                Layer::Geneve => write!(f, "Geneve {number}"),
                Layer::Gtp => write!(f, "GTP {number:#x}"),
                Layer::L2tp => write!(f, "L2TP {}/{}", number >> 16, number & 0xffff),
                Layer::Pbb => write!(f, "PBB {number}"),
            }?;
        }
        Ok(())
    }
}
