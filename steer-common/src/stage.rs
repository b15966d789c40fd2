//! The stages that a packet of the slow path goes through, and which may follow which.
//!
//! Each stage is a global function of the TC program that returns the next one, so that their stack
//! frames do not add up; they are called in one order ([`Stage::ORDER`]), each if it is the one
//! that comes next. What goes with a stage stands in named fields of the per-CPU scratch.

/// What a stage says comes next.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// An end: the packet goes on to the next program and the stack, untouched.
    Pass,
    /// An end: the packet is dropped (already counted).
    Drop,
    /// An end: the packet is redirected to the interface in `scratch.redirect`, its Ethernet header
    /// already written.
    Redirect,
    /// An end: the action in `scratch.action` is returned.
    Act,
    /// The end of the stages: the packet is forwarded as its flow's state says.
    Forward,
    /// The end of the stages: the packet goes to the backend in `scratch.plain`, or comes from it,
    /// with nothing but the addresses changed.
    Plain,
    /// As [`Stage::Plain`], between a client and the backend that it dialled itself, with nothing
    /// but the client's port changed.
    DirectPlain,
    /// A client's SYN.
    Syn,
    /// A client's segment.
    Client,
    /// A backend's segment.
    Server,
    /// A packet to a backend itself, whose number is in `scratch.backend`.
    Direct,
    /// An ICMP error.
    Icmp,
    /// A later fragment of a datagram.
    Fragment,
    /// What cannot be read.
    Unreadable,
    /// The client's data in `scratch.piece`, its first, is decided on as it lies in the packet; the
    /// flow is locked.
    DecidePacket,
    /// The client's data in `scratch.piece` is taken, its verdict known or still missing; the flow
    /// is locked.
    Data,
    /// The client's data in `scratch.piece` is buffered; the flow is locked.
    Buffer,
    /// What is buffered is decided on; the flow is locked.
    DecideBuffer,
    /// What is buffered is acted on as was decided; the flow is locked.
    Buffered,
    /// What is buffered is decided on, and there will be no more; the flow is locked.
    DecideLast,
    /// Gathering ends without a decision; the flow is locked.
    StopGathering,
    /// The owner in `scratch.backend` is opened; the flow is locked.
    OpenOwner,
    /// The owner's SYN-ACK is judged; the flow is locked.
    CompleteSplice,
    /// The backend's segment is learned from.
    Learn,
    /// What else the packet says of its settled flow.
    Settled,
    /// The packet becomes a SYN to the owner.
    SynToOwner,
    /// The packet becomes the reset in `scratch.reset`.
    Reset,
    /// The reset in `scratch.reset` is sent, then the buffered data to the owner.
    ResetThenOwner,
    /// The reset in `scratch.reset` is sent, then the buffered data to the first backend.
    ResetThenFirst,
    /// The buffered data is sent to the first backend.
    Flush,
    /// The rest of the buffered data is sent as `scratch.emitting` says.
    Emit,
    /// After forwarding: the MTU of the next hop, in `scratch.hop.mtu`, is too small.
    TooBig,
    /// After forwarding: the packet is cut into several, by `scratch.change` and `scratch.hop`.
    Cut,
}

use Stage::{
    Act, Buffer, Buffered, Client, CompleteSplice, Cut, DecideBuffer, DecideLast, DecidePacket,
    Direct, DirectPlain, Drop, Emit, Flush, Forward, Fragment, Icmp, Learn, OpenOwner, Pass, Plain,
    Redirect, Reset, ResetThenFirst, ResetThenOwner, Server, Settled, StopGathering, Syn,
    SynToOwner, TooBig, Unreadable,
};

impl Stage {
    /// The order in which stages are called: whatever follows one stands behind it. The first seven
    /// are what a packet is when it has been read and classified, the last two come after
    /// forwarding; ends are not called.
    pub const ORDER: [Self; 26] = [
        Syn,
        Client,
        Server,
        Direct,
        Icmp,
        Fragment,
        Unreadable,
        DecidePacket,
        Self::Data,
        Buffer,
        DecideBuffer,
        Buffered,
        DecideLast,
        StopGathering,
        OpenOwner,
        CompleteSplice,
        Learn,
        Settled,
        SynToOwner,
        Reset,
        ResetThenOwner,
        ResetThenFirst,
        Flush,
        Emit,
        TooBig,
        Cut,
    ];

    /// The stages that may follow; none follows an end.
    pub const fn followers(self) -> &'static [Self] {
        match self {
            Pass | Drop | Redirect | Act | Forward | Plain | DirectPlain => &[],
            Syn => &[Pass, Drop, Plain, Forward],
            Client => {
                &[Pass, Drop, Plain, Forward, Settled, Flush, Reset, DecidePacket, Self::Data]
            }
            Server => &[
                Pass,
                Drop,
                Plain,
                DirectPlain,
                Forward,
                Learn,
                Settled,
                Flush,
                Reset,
                OpenOwner,
                CompleteSplice,
            ],
            Direct => &[Pass, DirectPlain],
            Icmp | Fragment | TooBig => &[Pass, Drop, Redirect, Cut],
            Unreadable => &[Pass, Drop],
            DecidePacket => &[Drop, Forward, Self::Data],
            Self::Data => &[Drop, Forward, Buffer],
            Buffer => &[Drop, DecideBuffer, Buffered],
            DecideBuffer => &[Drop, Buffered],
            Buffered => &[Drop, Flush, DecideLast, OpenOwner, SynToOwner],
            DecideLast => &[Drop, StopGathering],
            StopGathering => &[Drop, Flush, OpenOwner],
            OpenOwner => &[Drop, Flush, SynToOwner],
            CompleteSplice => &[Drop, ResetThenFirst, ResetThenOwner],
            Learn => &[Settled],
            Settled => &[Drop, Forward],
            SynToOwner | Reset | Emit | Cut => &[Drop, Redirect],
            ResetThenOwner | ResetThenFirst | Flush => &[Drop, Emit],
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// What the packet meets when it is forwarded or passes.
    const AFTER: [Stage; 2] = [TooBig, Cut];

    #[test]
    fn what_follows_a_stage_is_called_behind_it_or_ends_the_way() {
        for (at, stage) in Stage::ORDER.iter().enumerate() {
            assert!(!stage.followers().is_empty(), "{stage:?} is no end");
            for next in stage.followers() {
                let behind = Stage::ORDER[at + 1..].contains(next);
                assert!(
                    behind || next.followers().is_empty(),
                    "{next:?} does not come behind {stage:?}"
                );
            }
        }
    }

    #[test]
    fn every_stage_is_reached() {
        let mut reached = [&Stage::ORDER[..7], &AFTER].concat();
        let mut at = 0;
        while let Some(stage) = reached.get(at).copied() {
            let new = stage
                .followers()
                .iter()
                .filter(|next| !reached.contains(next))
                .copied()
                .collect::<Vec<_>>();
            reached.extend(new);
            at += 1;
        }
        assert!(Stage::ORDER.iter().all(|stage| reached.contains(stage)));
    }
}
