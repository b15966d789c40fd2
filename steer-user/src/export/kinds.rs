//! What each counter counts: packets, flows, hellos or sessions.

use steer_common::counters::Counter;

/// What is counted: one family of metrics each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Packets and segments.
    Packets,
    /// Connections, once for each time that it happens to one.
    Flows,
    /// ClientHellos by what decided, and ServerHellos.
    Hellos,
    /// Sessions and key names, learned, resumed or not.
    Sessions,
    /// What the programs told and nobody read.
    Events,
}

impl Kind {
    /// Every kind, in the order in which they are served.
    pub(super) const ALL: [Self; 5] =
        [Self::Packets, Self::Flows, Self::Hellos, Self::Sessions, Self::Events];

    /// The family's name, without prefix and suffix.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Flows => "flows",
            Self::Hellos => "hellos",
            Self::Sessions => "sessions",
            Self::Events => "events",
        }
    }

    /// What the family tells.
    pub(super) const fn help(self) -> &'static str {
        match self {
            Self::Packets => "What happened to packets; one may count in several events",
            Self::Flows => "What happened to flows; one may count in several events",
            Self::Hellos => {
                "ClientHellos by what decided where they go, and what was seen of ServerHellos"
            }
            Self::Sessions => "Sessions and key names: learned, resumed, rejected, not learned",
            Self::Events => "What the programs told the agent and it did not read in time",
        }
    }

    /// What a counter counts. A new one is listed here before it compiles.
    pub(super) const fn of(counter: Counter) -> Self {
        use Counter as C;
        match counter {
            C::FromClient
            | C::FromBackend
            | C::NotOurs
            | C::Malformed
            | C::MalformedDropped
            | C::OtherStation
            | C::VlanPassed
            | C::XdpForwarded
            | C::XdpToTc
            | C::FastFull
            | C::FastHopsFull
            | C::XdpUnfinishedChecksum
            | C::XdpEgress
            | C::FragmentForwarded
            | C::FragmentPassed
            | C::FragmentHeld
            | C::SynRepeated
            | C::SynKnownFlow
            | C::OptionCleared
            | C::NoBackend
            | C::SynAck
            | C::MssClamped
            | C::AckSwallowed
            | C::NoFlowForwarded
            | C::ForeignPassed
            | C::Left
            | C::HandshakeMismatch
            | C::NoFlowTranslated
            | C::EntranceUnknown
            | C::DirectAccess
            | C::LegCollided
            | C::LegOver
            | C::LeftToStack
            | C::BridgeOtherSide
            | C::BackendPassed
            | C::Forwarded
            | C::Spliced
            | C::AckInvalid
            | C::Buffered
            | C::GatherHoles
            | C::GatherBeyond
            | C::BadChecksum
            | C::OwnerSynRepeated
            | C::Flushed
            | C::EmitFailed
            | C::WaitDropped
            | C::WaitReset
            | C::ResetInvalid
            | C::FirstReset
            | C::OwnerReset
            | C::StrayBackend
            | C::OwnerSynAckRepeated
            | C::FlowWaited
            | C::FlowBusy
            | C::TablesFilling
            | C::OptionsMalformed
            | C::BadCopy
            | C::HopAsked
            | C::NoRoute
            | C::NeighbourAsked
            | C::HopLimit
            | C::TooBig
            | C::TooBigCut
            | C::TooBigDropped
            | C::IcmpTranslated
            | C::IcmpPassed => Self::Packets,
            C::FastEntered
            | C::Syn
            | C::FlowEstablished
            | C::TraceFound
            | C::LegTranslated
            | C::OwnerIsClient
            | C::LegTaken
            | C::Exempt
            | C::VlanAmbiguous
            | C::FlowReplaced
            | C::NotTls
            | C::NotMovable
            | C::ServerFirst
            | C::Gather
            | C::GatherLimit
            | C::GatherWindow
            | C::GatherStalled
            | C::GatherEnded
            | C::Rehome
            | C::SpliceOpened
            | C::SplicesFull
            | C::OwnerNoRoute
            | C::OwnerRefused
            | C::OwnerSilent
            | C::OwnerResting
            | C::OwnerIncompatible
            | C::OwnerChallenge
            | C::OwnerPortTaken
            | C::PendingLost => Self::Flows,
            C::Hello
            | C::ProxyHeader
            | C::HelloMalformed
            | C::HelloNoSession
            | C::SessionMiss
            | C::TicketMiss
            | C::KeyNameHit
            | C::KeyNameShared
            | C::KeyNameSearch
            | C::KeyNameDue
            | C::KeyNameGivenUp
            | C::HelloCut
            | C::SessionExpired
            | C::SessionHit
            | C::OwnerDown
            | C::OwnerDrained
            | C::OwnerRefuses
            | C::Observed
            | C::Bypassed
            | C::ServerNoSession
            | C::ServerTls13
            | C::ServerRetry
            | C::SecondHello
            | C::SecondHelloUnread => Self::Hellos,
            C::Learned
            | C::Resumed
            | C::OwnerChanged
            | C::ResumptionRejected
            | C::KeyNameLearned
            | C::KeyNameBecameShared
            | C::KeyNameRejected
            | C::PskOther
            | C::LearnResumed
            | C::LearnGivenUp
            | C::TicketTold
            | C::NotAuthenticated
            | C::SessionNoCertificate
            | C::SessionCertificateUnseen
            | C::SessionQuota => Self::Sessions,
            C::EventsLost | C::WatchLost | C::JournalLost => Self::Events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_served_in_one_family() {
        let of = |kind| Counter::ALL.iter().filter(|counter| Kind::of(**counter) == kind).count();
        assert_eq!(Kind::ALL.map(of).iter().sum::<usize>(), Counter::ALL.len());
        assert!(Kind::ALL.map(of).iter().all(|n| *n > 0), "a family is empty");
    }
}
