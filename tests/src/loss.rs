//! Packet loss at the ends of the lab, by nftables (the kernel here has no netem, and what XDP
//! redirects passes no qdisc).

use anyhow::Result;

use crate::{netns::NetNs, topology::Lab};

const TABLE: &str = "steer_lab_loss";

/// Loss in some namespaces; ends when dropped. One at a time in each namespace.
pub struct Loss<'a> {
    places: Vec<&'a NetNs>,
}

impl<'a> Loss<'a> {
    /// Drops `percent` of the TCP packets in both directions, each as it reaches a client or a
    /// backend.
    ///
    /// A packet is what the interface delivers: 64 KB with offloads on, one of the wire with
    /// [`crate::topology::Offloads::Off`].
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn everywhere(lab: &'a Lab, percent: u32) -> Result<Self> {
        let mut loss = Self { places: Vec::new() };
        let backends = (0..lab.n_backends()).map(|index| lab.backend(index));
        for ns in std::iter::once(lab.client()).chain(backends) {
            let rule = format!("meta l4proto tcp numgen random mod 100 < {percent}");
            loss.add(ns, "ingress", &rule)?;
        }
        Ok(loss)
    }

    /// Drops the packets that reach this namespace and match an nftables expression: `tcp flags &
    /// (syn | ack) == syn | ack`, with `numgen inc mod 2 == 0` behind it for every other one.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn incoming(ns: &'a NetNs, expression: &str) -> Result<Self> {
        let mut loss = Self { places: Vec::new() };
        loss.add(ns, "ingress", expression)?;
        Ok(loss)
    }

    /// Drops the packets that leave this namespace and match an nftables expression.
    ///
    /// Only for what is repeated by a timer, such as SYN-ACKs: a sender of data notices the drop,
    /// sends it again at once, and counts no retransmission.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn outgoing(ns: &'a NetNs, expression: &str) -> Result<Self> {
        let mut loss = Self { places: Vec::new() };
        loss.add(ns, "egress", expression)?;
        Ok(loss)
    }

    fn add(&mut self, ns: &'a NetNs, hook: &str, expression: &str) -> Result<()> {
        ns.nft(&format!(
            "table netdev {TABLE} {{\n chain loss {{\n  type filter hook {hook} device eth0 priority 0\n  \
             {expression} drop\n }}\n}}\n"
        ))?;
        self.places.push(ns);
        Ok(())
    }
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        for ns in &self.places {
            // Fails only if the table is gone already.
            drop(ns.nft(&format!("delete table netdev {TABLE}\n")));
        }
    }
}
