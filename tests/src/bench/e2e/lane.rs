//! A way to the servers, open in a lab of its own, so that ways can be measured in turns.

use std::time::Duration;

use anyhow::{Result, ensure};
use steer_common::counters::Counter;

use crate::{
    agent::{Agent, Hook},
    client::{Client, Dial, Offer},
    haproxy::HaProxy,
    l4::PlainL4,
    nginx,
    scenario::Run,
};

/// What lies between clients and servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The gateway forwards packets to the server that the client dials, and does nothing else.
    Direct,
    /// nftables DNAT by a hash of the source address.
    Nft,
    /// HAProxy in TCP mode with its repaired SSL-ID stick table.
    Haproxy,
    /// steer.
    Steer(Hook),
}

impl Way {
    pub(super) const ALL: [Self; 5] =
        [Self::Direct, Self::Nft, Self::Haproxy, Self::Steer(Hook::Tc), Self::Steer(Hook::Xdp)];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nft => "nft DNAT",
            Self::Haproxy => "HAProxy",
            Self::Steer(Hook::Xdp) => "steer XDP",
            Self::Steer(Hook::Tc | Hook::Auto) => "steer TC",
        }
    }
}

/// The servers of every lab: they take all kinds of sessions, and each has ticket keys of its own.
pub(super) fn servers() -> nginx::Settings {
    nginx::Settings {
        protocols: "TLSv1.2 TLSv1.3".to_owned(),
        tickets: true,
        ..nginx::Settings::default()
    }
}

/// A way, open until this is dropped.
pub(super) struct Lane<'a> {
    pub(super) way: Way,
    pub(super) run: &'a Run,
    open: Open<'a>,
}

enum Open<'a> {
    Direct,
    Nft { _rules: PlainL4<'a> },
    Haproxy { proxy: HaProxy<'a> },
    Steer { agent: Agent<'a> },
}

impl<'a> Lane<'a> {
    pub(super) fn open(way: Way, run: &'a Run) -> Result<Self> {
        let open = match way {
            Way::Direct => Open::Direct,
            Way::Nft => Open::Nft { _rules: PlainL4::start(&run.lab)? },
            Way::Haproxy => Open::Haproxy { proxy: HaProxy::start(&run.lab)? },
            Way::Steer(_) => Open::Steer { agent: run.agent()? },
        };
        Ok(Self { way, run, open })
    }

    /// A dial from this address of a client whose session, if it has one, is of backend `owner`.
    pub(super) fn dial(&self, owner: usize, source: usize) -> Dial {
        let mut dial = self.run.dial(source);
        if self.way == Way::Direct {
            dial.target = self.run.backend_address(owner);
        }
        // Long enough for any handshake here, short enough that one that hangs does not hold up the
        // run.
        dial.timeout = Duration::from_secs(3);
        dial
    }

    /// The process at work in the gateway, if there is one.
    pub(super) fn gateway_process(&self) -> Option<u32> {
        match &self.open {
            Open::Haproxy { proxy } => proxy.process_id(),
            Open::Steer { agent } => agent.worker(),
            Open::Direct | Open::Nft { .. } => None,
        }
    }

    /// The running agent, where this is steer's lane.
    pub(super) fn agent(&self) -> Option<&Agent<'a>> {
        match &self.open {
            Open::Steer { agent } => Some(agent),
            Open::Direct | Open::Nft { .. } | Open::Haproxy { .. } => None,
        }
    }

    /// Flows that were re-homed so far.
    pub(super) fn rehomed(&self) -> Result<u64> {
        self.agent().map_or(Ok(0), |agent| agent.count(Counter::SpliceOpened))
    }

    /// The tracks of this lane: one client each with a session of backend 0, which every way can
    /// resume.
    pub(super) fn tracks(&'a self) -> Result<Vec<Track<'a>>> {
        let name = self.way.name();
        let track = |name: String, source, moves| {
            let client = self.run.new_client_offering(Offer::SessionId)?;
            anyhow::Ok(Track { name, lane: self, client, source, moves })
        };
        if self.way == Way::Direct {
            return Ok(vec![track(name.to_owned(), 0, false)?]);
        }
        let (stays, moves) = (self.run.source_of(0)?, self.run.source_not_of(0)?);
        let tracks = match self.way {
            Way::Direct | Way::Nft => vec![track(name.to_owned(), stays, false)?],
            // What it does is the same wherever a client comes from.
            Way::Haproxy => vec![track(name.to_owned(), moves, false)?],
            Way::Steer(_) => {
                vec![
                    track(format!("{name}, stays"), stays, false)?,
                    track(format!("{name}, re-homed"), moves, true)?,
                ]
            }
        };
        for track in &tracks {
            self.run.session_at(&track.client, 0)?;
        }
        Ok(tracks)
    }
}

/// A client that dials one backend from one address, again and again, with the same session.
pub(super) struct Track<'a> {
    pub(super) name: String,
    pub(super) lane: &'a Lane<'a>,
    pub(super) client: Client,
    /// Whether steer re-homes its flows.
    pub(super) moves: bool,
    source: usize,
}

impl Track<'_> {
    pub(super) fn dial(&self) -> Dial {
        self.lane.dial(0, self.source)
    }

    /// Makes sure that it has a session, and that it is resumed.
    pub(super) fn warm_up(&self) -> Result<()> {
        self.lane.run.visit(&self.client, &self.dial())?;
        let handshake = self.lane.run.visit(&self.client, &self.dial())?;
        ensure!(handshake.resumed, "{}: a session was not resumed", self.name);
        ensure!(
            self.lane.run.backend_named(&handshake.server)? == 0,
            "{}: it is of {}",
            self.name,
            handshake.server
        );
        Ok(())
    }
}
