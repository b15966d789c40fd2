//! What both kinds of tests have in common: transfers that begin before an upgrade and end after
//! it, and what an operator would miss.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steer_tests::{
    agent::{Agent, Hook},
    client::{Client, Dial, Handshake, Offer},
    nginx, payload,
    scenario::{Run, Scenario},
    topology::{Family, Offloads},
};
use steer_user::plane::PinDir;

pub(crate) const MEGABYTE: usize = 1 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The backend whose sessions transfers resume.
pub(crate) const OWNER: usize = 0;
/// Kinds of sessions, one after the other.
pub(crate) const OFFERS: [Offer; 3] = [Offer::SessionId, Offer::Ticket12, Offer::Ticket13];

/// Three backends with keys of their own; TC serves IPv4 and XDP IPv6.
pub(crate) fn scenario(hook: Hook) -> Scenario {
    let (family, offloads) = match hook {
        Hook::Xdp => (Family::V6, Offloads::ChecksumsOff),
        _ => (Family::V4, Offloads::On),
    };
    let nginx = nginx::Settings {
        protocols: "TLSv1.2 TLSv1.3".to_owned(),
        tickets: true,
        ticket_key: nginx::TicketKey::Private,
        ..nginx::Settings::default()
    };
    Scenario::new(hook, family).offloads(offloads).backends(3).nginx(nginx)
}

/// The layouts whose states are there.
pub(crate) fn layouts(steer: &Agent<'_>) -> Vec<u32> {
    PinDir::new(steer.pin_dir()).layouts().iter().map(PinDir::layout).collect()
}

/// What the operator made of the pools, and under which numbers the backends stand.
pub(crate) fn pools(steer: &Agent<'_>) -> Result<Vec<[Value; 5]>> {
    let list = steer.json("backends list")?;
    let backends = list["backends"].as_array().context("no list of backends")?.iter();
    let mut pools = backends
        .map(|b| ["address", "id", "weight", "state", "vip"].map(|key| b[key].clone()))
        .collect::<Vec<_>>();
    pools.sort_by_key(|backend| backend[0].to_string());
    Ok(pools)
}

/// A client whose sessions are of this kind, with a session of the backend that this address leads
/// to.
pub(crate) fn visitor(run: &Run, offer: Offer, home: &Dial) -> Result<(Client, String)> {
    let client = run.new_client_offering(offer)?;
    run.visit(&client, home)?;
    // The name of a ticket key of TLS 1.3 is known when a ticket of it was accepted.
    let handshake = run.visit(&client, home)?;
    Ok((client, handshake.server))
}

/// How a transfer goes on while the upgrade is under way.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// Slowly, so that it lasts.
    Slow,
    /// Not at all.
    Idle,
}

impl Pace {
    fn wait(self, over: &AtomicBool) {
        match self {
            Self::Slow if !over.load(Ordering::Relaxed) => thread::sleep(Duration::from_millis(50)),
            Self::Slow => {}
            Self::Idle => {
                while !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

/// One transfer that begins before the upgrade and ends after it.
pub(crate) struct Transfer {
    client: Client,
    dial: Dial,
    /// Whether its flow is re-homed.
    moves: bool,
    number: usize,
}

impl Transfer {
    /// Some over flows of which one half is re-homed, of clients whose sessions are of each kind.
    pub(crate) fn several(run: &Run) -> Result<Vec<Self>> {
        let (home, away) = (run.dial(run.source_of(OWNER)?), run.dial(run.source_not_of(OWNER)?));
        let transfer = |number| {
            let (client, _) = visitor(run, OFFERS[number / 2 % OFFERS.len()], &home)?;
            let moves = number % 2 == 0;
            Ok(Self {
                client,
                dial: if moves { away.clone() } else { home.clone() },
                moves,
                number,
            })
        };
        (0..12).map(transfer).collect()
    }

    /// Does it; `sum` is that of the file `down`, `body` what is uploaded.
    pub(crate) fn run(&self, run: &Run, sum: &str, body: &[u8], over: &AtomicBool) -> Result<()> {
        let context = || format!("transfer {} (re-homed: {})", self.number, self.moves);
        let handshake = match self.number % 3 {
            0 => self.download(run, sum, Pace::Slow, over),
            1 => self.download(run, sum, Pace::Idle, over),
            _ => self.upload(run, body, over),
        };
        let handshake = handshake.with_context(context)?;
        ensure!(handshake.resumed, "{}: not resumed: {handshake:?}", context());
        ensure!(
            run.backend_named(&handshake.server)? == OWNER,
            "{}: at {}",
            context(),
            handshake.server
        );
        Ok(())
    }

    fn download(&self, run: &Run, sum: &str, pace: Pace, over: &AtomicBool) -> Result<Handshake> {
        let (handshake, response) = run.connect(&self.client, &self.dial, |connection| {
            let response = connection.get_watched("/files/down", |read| {
                if read > MEGABYTE {
                    pace.wait(over);
                }
            })?;
            connection.finish().map(|()| response)
        })?;
        ensure!(response.sha256 == sum, "the file arrived changed");
        Ok(handshake)
    }

    fn upload(&self, run: &Run, body: &[u8], over: &AtomicBool) -> Result<Handshake> {
        let name = format!("up{}", self.number);
        let (handshake, ()) = run.connect(&self.client, &self.dial, |connection| {
            connection.put_watched(&format!("/files/{name}"), body, |_| Pace::Slow.wait(over))?;
            connection.finish()
        })?;
        ensure!(
            run.servers[OWNER].uploaded(&name)? == payload::sha256(body),
            "the upload arrived changed"
        );
        Ok(handshake)
    }
}
