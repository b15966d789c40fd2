//! The one list of counters: the variant is the kernel's index, its word the metric label, the
//! CLI's column and what tests assert on.

/// Declares [`Counter`] with its words and explanations, in index order.
macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+) => {
        /// Something that happened to a packet or a flow. The number is the index into the
        /// `counters` map.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
        pub enum Counter { $( $(#[doc = $doc])+ $variant, )+ }

        impl Counter {
            /// Every counter in index order.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant),+];

            /// The word used in CLI, metrics and tests.
            pub const fn word(self) -> &'static str {
                match self { $(Counter::$variant => $word,)+ }
            }

            /// One sentence that says what is counted and why it was right.
            pub const fn help(self) -> &'static str {
                match self { $(Counter::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

counters! {
    // ---- what came in
    /// TCP packets from clients to a VIP, or to a backend of an inline pool.
    FromClient = "from-client",
    /// TCP packets from backends to clients of a VIP or of an inline pool.
    FromBackend = "from-backend",
    /// Packets passed untouched: neither to a VIP nor from a backend.
    NotOurs = "not-ours",
    /// Packets passed untouched: a header is cut short or lies about its length.
    Malformed = "malformed",
    /// Packets of ours dropped: a header is cut short or lies about its length, or lies too deep to
    /// be read.
    MalformedDropped = "malformed-dropped",
    /// Packets passed untouched: their frame is for another station.
    OtherStation = "other-station",
    /// VLAN-tagged packets passed untouched to the VLAN's own interface.
    VlanPassed = "vlan-passed",
    /// Packets the XDP program forwarded.
    XdpForwarded = "xdp-forwarded",
    /// Packets of ours that XDP handed to TC.
    XdpToTc = "xdp-to-tc",
    /// Settled flows entered into the cache `fast`, where their packets find them sooner, once for
    /// each time.
    FastEntered = "fast-entered",
    /// Packets of settled flows that went by the flow's record because others have its places in
    /// the cache `fast`.
    FastFull = "fast-full",
    /// Packets of settled flows that went by the flow's record because the clients of the cache
    /// `fast` come by more hops than it has room for.
    FastHopsFull = "fast-hops-full",
    /// Packets XDP handed to TC because their checksum is unfinished (local virtual link).
    XdpUnfinishedChecksum = "xdp-unfinished-checksum",
    /// Packets XDP handed to TC because the interface that they leave by takes no frames from XDP.
    XdpEgress = "xdp-egress",
    /// IP fragments of steered flows forwarded by what their first fragment said.
    FragmentForwarded = "fragment-forwarded",
    /// IP fragments passed untouched: their datagram is no steered flow's.
    FragmentPassed = "fragment-passed",
    /// IP fragments held because they overtook the first one of their datagram; they come in again
    /// behind it, or are lost with it, and the sender repeats the segment.
    FragmentHeld = "fragment-held",

    // ---- plain layer 4
    /// SYNs of new flows.
    Syn = "syn",
    /// SYNs repeated: sent to the same first backend.
    SynRepeated = "syn-repeated",
    /// SYNs on a known live flow, or on a handshake that its first backend just answered: sent to
    /// that backend, nothing changed.
    SynKnownFlow = "syn-known-flow",
    /// Options that would keep a flow from moving, replaced by NOP in a SYN.
    OptionCleared = "option-cleared",
    /// SYNs dropped: the pool has no backend that is up.
    NoBackend = "no-backend",
    /// SYN-ACKs of first backends.
    SynAck = "syn-ack",
    /// SYN-ACKs whose MSS was lowered to the pool's smallest.
    MssClamped = "mss-clamped",
    /// Flows whose client acknowledged the first backend.
    FlowEstablished = "flow-established",
    /// First bare ACKs dropped by the pool's setting `swallow`; where no hello follows the agent
    /// asks for another one.
    AckSwallowed = "ack-swallowed",
    /// Client packets to a VIP of no known flow, sent where the lookup table says, where no older
    /// connection can be meant.
    NoFlowForwarded = "no-flow-forwarded",
    /// Client packets to a VIP passed untouched: of a connection that is older than the gateway and
    /// not its own.
    ForeignPassed = "foreign-passed",
    /// SYNs to a VIP passed untouched to the kernel's own rules, because the gateway is being left.
    Left = "left",
    /// Flows that the flow table had forgotten, put back by what was left of them.
    TraceFound = "trace-found",
    /// Client packets that acknowledge something else than the remembered handshake: plain layer 4.
    HandshakeMismatch = "handshake-mismatch",
    /// Backend packets of no known flow that took the VIP's address by the lookup table, during a
    /// takeover.
    NoFlowTranslated = "no-flow-translated",
    /// Backend packets of flows without a record, dropped in a takeover: several VIPs share the
    /// pool, and which one their client dialled its own next packet says.
    EntranceUnknown = "entrance-unknown",
    /// SYNs passed to a backend that the client dialled itself.
    DirectAccess = "direct-access",
    /// Connections whose client's port another live one has at the same backend: they have another
    /// port there.
    LegTranslated = "leg-translated",
    /// Fallback: the owner is the client itself.
    OwnerIsClient = "owner-is-client",
    /// Fallback: the client's port is taken at the owner, and no other port is free.
    LegTaken = "leg-taken",
    /// SYNs whose client's port is taken at their backend, and for which no other port was free:
    /// they went with their own.
    LegCollided = "leg-collided",
    /// Backend packets to a port that a moved flow had there, which is over: dropped, for its
    /// client may use the port for another connection.
    LegOver = "leg-over",
    /// Packets of an inline pool's flows that were not moved, passed because the forwarding table
    /// tells no way: the stack routes them.
    LeftToStack = "left-to-stack",
    /// Connections passed untouched that clients open whom an inline pool exempts (`exempt`), or to
    /// a backend that left its pool.
    Exempt = "exempt",
    /// Frames at a port of a bridge, with the address of a backend, that came in on the other side
    /// than its packets or its clients' do: passed untouched.
    BridgeOtherSide = "bridge-other-side",
    /// Fallback: frames to the owner, or to the first backend, come with the tags of two VLANs, and
    /// nobody said which one is meant (`vlan`).
    VlanAmbiguous = "vlan-ambiguous",
    /// Backend packets passed untouched: of no flow of ours (health checks, direct access).
    BackendPassed = "backend-passed",
    /// New connections on a live flow's addresses: the old flow was forgotten.
    FlowReplaced = "flow-replaced",
    /// Packets forwarded unchanged but for their addresses.
    Forwarded = "forwarded",
    /// Packets forwarded with the splice's translation.
    Spliced = "spliced-forwarded",

    // ---- decisions
    /// Hellos seen whole enough to decide.
    Hello = "hello",
    /// Looks at hellos behind a header of the PROXY protocol, which a proxy or balancer in front
    /// put there.
    ProxyHeader = "proxy-header",
    /// First data that is no TLS: the first backend, for good.
    NotTls = "not-tls",
    /// TLS that cannot be parsed: the first backend, for good.
    HelloMalformed = "hello-malformed",
    /// Hellos that offer no session: the first backend.
    HelloNoSession = "hello-no-session",
    /// Hellos whose session ID is not known: the first backend.
    SessionMiss = "session-miss",
    /// Hellos whose tickets are not known, neither by themselves nor by the name of their key: the
    /// first backend.
    TicketMiss = "ticket-miss",
    /// Hellos led by the name of their ticket's key.
    KeyNameHit = "key-name-hit",
    /// Hellos whose ticket key several backends share: the first backend, which can open the ticket
    /// as well as any.
    KeyNameShared = "key-name-shared",
    /// Hellos of an unknown key name that the first backend rejected before: another one is tried.
    KeyNameSearch = "key-name-search",
    /// Hellos of an unknown key name sent to another backend than the first, in a pool whose keys
    /// change: the one that most likely has come to a new key.
    KeyNameDue = "key-name-due",
    /// Hellos of an unknown key name that every backend tried rejected: the search is over, the
    /// first backend.
    KeyNameGivenUp = "key-name-given-up",
    /// Hellos decided on before they were whole, at an exit of gathering.
    HelloCut = "hello-cut",
    /// Sessions found but too old: the first backend.
    SessionExpired = "session-expired",
    /// Sessions found whose owner is the first backend: nothing to move.
    SessionHit = "session-hit",
    /// Sessions found whose owner is down or gone: the first backend.
    OwnerDown = "owner-down",
    /// Sessions found whose draining owner is past its deadline: the first backend.
    OwnerDrained = "owner-drained",
    /// Sessions found whose owner accepted none for an hour and refused many in a row: the first
    /// backend, but for one of sixteen.
    OwnerRefuses = "owner-refuses",
    /// Sessions found at another backend, in observe mode: the flow stays.
    Observed = "observed",
    /// Hellos not steered because bypass is on.
    Bypassed = "bypassed",
    /// Flows that cannot be moved (signed options, IP options, urgent data, FIN or wrong
    /// acknowledgement with the hello).
    NotMovable = "not-movable",
    /// The first backend spoke before the client: it keeps the flow.
    ServerFirst = "server-first",
    /// Client segments dropped: they acknowledge what the first backend has not sent.
    AckInvalid = "ack-invalid",

    // ---- gather
    /// Flows whose hello came in pieces too small to decide on the first.
    Gather = "gather",
    /// Segments buffered.
    Buffered = "buffered",
    /// Gathering ended at the buffer's limit: decided on what was there.
    GatherLimit = "gather-limit",
    /// Gathering ended because the first backend's window is used up: decided on what was there.
    GatherWindow = "gather-window",
    /// Gathering ended because the client sends no more until it is acknowledged: decided on what
    /// was there.
    GatherStalled = "gather-stalled",
    /// Gathering ended because the client ended its stream: the first backend gets what there is.
    GatherEnded = "gather-ended",
    /// Segments dropped, not buffered: more holes than the buffer tells apart; the client repeats
    /// them.
    GatherHoles = "gather-holes",
    /// Segments dropped: beyond what can be buffered; the client repeats them.
    GatherBeyond = "gather-beyond",
    /// Hello segments dropped for a wrong checksum; the client repeats them.
    BadChecksum = "bad-checksum",

    // ---- re-home
    /// Flows sent to their owner.
    Rehome = "rehome",
    /// SYNs to the owner repeated.
    OwnerSynRepeated = "owner-syn-repeated",
    /// Re-homed flows spliced.
    SpliceOpened = "splice-opened",
    /// Fallback: no slot free in the splice table.
    SplicesFull = "splices-full",
    /// Fallback: the owner cannot be reached by route or neighbour; at a bridge, no frames to it and
    /// from it passed lately.
    OwnerNoRoute = "owner-no-route",
    /// Fallback: the owner refused the connection.
    OwnerRefused = "owner-refused",
    /// Fallback: the owner did not answer.
    OwnerSilent = "owner-silent",
    /// Fallback: the owner did not answer the last moves to it, and rests for some seconds.
    OwnerResting = "owner-resting",
    /// Fallback: the owner agreed to other TCP options than the first backend.
    OwnerIncompatible = "owner-incompatible",
    /// Fallback: the owner holds another connection on these addresses, which is left alone.
    OwnerChallenge = "owner-challenge",
    /// Moves whose owner challenged the client's port, for another connection has it there, which
    /// is left alone: the owner is opened with another port.
    OwnerPortTaken = "owner-port-taken",
    /// The buffered hello was gone: the client repeats it to the first backend.
    PendingLost = "pending-lost",
    /// Buffered bytes given to the first backend.
    Flushed = "flushed",
    /// Packets that could not be built or sent; their sender repeats them.
    EmitFailed = "emit-failed",
    /// Packets dropped while a flow waits for its owner; their sender repeats them.
    WaitDropped = "wait-dropped",
    /// Client resets while a flow waits, given to the first backend.
    WaitReset = "wait-reset",
    /// Resets dropped: their sequence number is not the client's.
    ResetInvalid = "reset-invalid",
    /// Resets sent to the first backend of a re-homed flow.
    FirstReset = "first-reset",
    /// Resets sent to an owner that was given up.
    OwnerReset = "owner-reset",
    /// Packets of a re-homed flow's first backend, which does not hold it any more; answered with a
    /// reset.
    StrayBackend = "stray-backend",
    /// SYN-ACKs of the owner repeated after the splice, dropped.
    OwnerSynAckRepeated = "owner-syn-ack-repeated",
    /// Segments that waited, some microseconds at most, for another CPU to let go of their flow.
    FlowWaited = "flow-waited",
    /// Segments dropped because the flow was being changed by another CPU for too long; their
    /// sender repeats them.
    FlowBusy = "flow-busy",
    /// Packets of handshakes and of unknown flows dropped: tables are being filled from those of
    /// another size or an older version, and what is known of them may be on its way; their senders
    /// repeat them.
    TablesFilling = "tables-filling",
    /// Packets of spliced flows dropped: their TCP options are malformed.
    OptionsMalformed = "options-malformed",

    // ---- learn
    /// Sessions learned.
    Learned = "learned",
    /// Resumptions that a backend accepted.
    Resumed = "resumed",
    /// Sessions that another backend had issued before: the newer answer counts.
    OwnerChanged = "owner-changed",
    /// Offered sessions that the backend did not accept: it made a full handshake.
    ResumptionRejected = "resumption-rejected",
    /// ServerHellos of TLS 1.2 and below without a session ID.
    ServerNoSession = "server-no-session",
    /// ServerHellos of TLS 1.3: their session ID is an echo and is never learned.
    ServerTls13 = "server-tls13",
    /// HelloRetryRequests: the second hello goes where the first went.
    ServerRetry = "server-retry",
    /// Second hellos, answers to a HelloRetryRequest, that were read.
    SecondHello = "second-hello",
    /// Second hellos that could not be read: nothing is learned of what they offer.
    SecondHelloUnread = "second-hello-unread",
    /// Key names learned.
    KeyNameLearned = "key-name-learned",
    /// Key names of which a second backend issued or accepted tickets: they no longer steer.
    KeyNameBecameShared = "key-name-became-shared",
    /// Tickets that the owner of their key name rejected: too old, or its key is another.
    KeyNameRejected = "key-name-rejected",
    /// PSKs accepted that were not the one the gateway looked at: nothing learned.
    PskOther = "psk-other",
    /// Handshakes read on behind missing bytes.
    LearnResumed = "learn-resumed",
    /// Handshakes too long or too finely cut to be read to their end: nothing learned.
    LearnGivenUp = "learn-given-up",
    /// Tickets told to the agent, which looks for the place of their key names.
    TicketTold = "ticket-told",
    /// Handshakes that ended without the server authenticating the client: nothing learned.
    NotAuthenticated = "not-authenticated",
    /// Sessions not learned: their backend asked the client for a certificate, and it gave none.
    SessionNoCertificate = "session-no-certificate",
    /// Sessions not learned: their backend asked the client for a certificate, and the answer could
    /// not be read.
    SessionCertificateUnseen = "session-certificate-unseen",
    /// Sessions not learned: their source has had as many as the VIP's `sessions_per_source`
    /// allows.
    SessionQuota = "session-quota",
    /// Packets with a wrong checksum: forwarded with it, nothing is learned from them.
    BadCopy = "bad-copy",

    // ---- forwarding
    /// Packets whose next hop was asked of the forwarding table.
    HopAsked = "hop-asked",
    /// Packets dropped: no route to their destination.
    NoRoute = "no-route",
    /// Packets left to the kernel's neighbour discovery.
    NeighbourAsked = "neighbour-asked",
    /// Packets at the end of their hop limit: dropped towards a backend, left to the stack towards
    /// a client, and in both directions where an inline pool's flow was not moved.
    HopLimit = "hop-limit",
    /// Frag-Needed or Packet-Too-Big sent: the next hop's MTU is too small.
    TooBig = "too-big",
    /// Packets that their sender allows to be fragmented, cut to the next hop's MTU.
    TooBigCut = "too-big-cut",
    /// Packets dropped: larger than the next hop's MTU, and neither to be cut nor to be answered.
    TooBigDropped = "too-big-dropped",
    /// ICMP errors translated and forwarded.
    IcmpTranslated = "icmp-translated",
    /// ICMP errors about no flow of ours, or with a sequence number out of window: passed
    /// untouched.
    IcmpPassed = "icmp-passed",
    /// Events lost because the agent did not read the ring in time.
    EventsLost = "events-lost",
    /// What became of flows, not told to who watches: the ring was full.
    WatchLost = "watch-lost",
    /// Changes of sessions, key names and re-homed flows that could not be told for other gateways:
    /// the ring was full. The agent's next walk over its tables finds them.
    JournalLost = "journal-lost",
}

impl Counter {
    /// How many there are: the size of the `counters` map.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter with this index.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// The counter with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_indices_match() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert_eq!(Counter::from_word(counter.word()), Some(*counter));
        }
    }
}
