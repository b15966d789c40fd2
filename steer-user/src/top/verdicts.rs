//! The counters that say what became of a connection's first data: each is the end of one decision.

use steer_common::counters::Counter;

/// Verdicts and the reasons to stay with the first backend.
pub(super) const VERDICTS: [Counter; 31] = [
    Counter::Rehome,
    Counter::SessionHit,
    Counter::HelloNoSession,
    Counter::SessionMiss,
    Counter::TicketMiss,
    Counter::KeyNameShared,
    Counter::KeyNameSearch,
    Counter::KeyNameDue,
    Counter::KeyNameGivenUp,
    Counter::SessionExpired,
    Counter::OwnerDown,
    Counter::OwnerDrained,
    Counter::OwnerRefuses,
    Counter::OwnerIsClient,
    Counter::Observed,
    Counter::Bypassed,
    Counter::NotTls,
    Counter::HelloMalformed,
    Counter::NotMovable,
    Counter::ServerFirst,
    Counter::SplicesFull,
    Counter::LegTaken,
    Counter::VlanAmbiguous,
    Counter::OwnerNoRoute,
    Counter::OwnerRefused,
    Counter::OwnerSilent,
    Counter::OwnerResting,
    Counter::OwnerIncompatible,
    Counter::OwnerChallenge,
    Counter::PendingLost,
    Counter::NoBackend,
];
