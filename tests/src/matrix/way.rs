//! The ways to the servers, one at a time, and what a client does on each.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::{
    cell::{Column, Mode, Protocol, Tally},
    client::{Client, Seen, Visit},
    stack::ServerStack,
};
use crate::{
    agent::{Agent, Hook, Settings, Shape},
    haproxy::HaProxy,
    l4::PlainL4,
    scenario::N_SOURCES,
    topology::{Family, Lab, backend, source, vip},
};

/// Errors after which a way is given up.
const MAX_ERRORS: usize = 3;

/// A way to the servers, up until it is dropped.
pub(super) enum Way<'a> {
    Direct,
    L4 { _rules: Option<PlainL4<'a>> },
    Haproxy { _proxy: HaProxy<'a> },
    Steer { _agent: Agent<'a> },
}

impl<'a> Way<'a> {
    /// Opens a way in this lab.
    pub(super) fn open(
        column: Column,
        lab: &'a Lab,
        mode: Mode,
        server: ServerStack,
        key_names: &[String],
    ) -> Result<Self> {
        Ok(match column {
            Column::Direct => Self::Direct,
            // A balancer in front has such rules already.
            Column::L4 if lab.balancer().is_some() => Self::L4 { _rules: None },
            Column::L4 => Self::L4 { _rules: Some(PlainL4::start(lab)?) },
            Column::Haproxy => Self::Haproxy { _proxy: HaProxy::start(lab)? },
            Column::Steer | Column::Auto => {
                let key_name = if column == Column::Auto { "auto" } else { server.key_name };
                let mut settings = steer(mode, key_name, key_names);
                settings.shape = match lab.balancer() {
                    Some(_) if lab.is_bridge() => Shape::Bridge,
                    Some(_) => Shape::Inline,
                    None => Shape::Gateway,
                };
                Self::Steer { _agent: Agent::start(lab, &settings)? }
            }
        })
    }

    fn target(&self) -> SocketAddr {
        match self {
            Self::Direct => backend(Family::V4, 0),
            Self::L4 { .. } | Self::Haproxy { .. } | Self::Steer { .. } => vip(Family::V4),
        }
    }

    /// What a client stack gets on this way.
    ///
    /// First one client per server gets a session and resumes it once from the same address: a
    /// gateway that learns a server's key from an accepted ticket knows it then; not where it is
    /// `cold`. What is counted are the offers of new clients, whose sessions were never resumed:
    /// each gets one at a server and offers it from other addresses.
    pub(super) fn measure(
        &self,
        client: &mut dyn Client,
        mode: Mode,
        n_servers: usize,
        (n_offers, cold): (usize, bool),
    ) -> Result<Tally> {
        let mut walk = Walk { client, protocol: mode.protocol(), target: self.target() };
        let homes = match self {
            Self::Direct => {
                (0..n_servers).map(|slot| walk.first(slot).map(|_| slot)).collect::<Result<_>>()?
            }
            Self::L4 { .. } | Self::Haproxy { .. } | Self::Steer { .. } => walk.homes(n_servers)?,
        };
        // Where the gateway was told the names it has nothing to learn.
        if mode != Mode::Named13 && !cold {
            for &home in &homes {
                walk.visit(home, home).with_context(|| format!("resume from address {home}"))?;
                walk.first(home)?;
            }
        }
        Ok(walk.offer(&homes, n_offers))
    }
}

/// steer's configuration for servers whose key names stand there.
pub(super) fn steer(mode: Mode, key_name: &str, key_names: &[String]) -> Settings {
    let mut settings = Settings::new(Hook::Tc);
    if mode.tickets() {
        settings.vip.push(format!("ticket_key_name = \"{key_name}\""));
    }
    settings.backend = key_names
        .iter()
        .enumerate()
        .map(|(index, name)| (index, format!("key_names = [\"{name}\"]")))
        .collect();
    settings
}

/// A client stack on a way. A slot is a simulated client; its number is that of the address it
/// first came from.
struct Walk<'a> {
    client: &'a mut dyn Client,
    protocol: Protocol,
    target: SocketAddr,
}

impl Walk<'_> {
    /// Finds an address that leads to each server, by clients without a session; each keeps the one
    /// it is given.
    fn homes(&mut self, n_servers: usize) -> Result<Vec<usize>> {
        let (mut homes, mut servers) = (Vec::new(), Vec::new());
        for source in 0..N_SOURCES {
            let server = self.first(source)?.server;
            if !servers.contains(&server) {
                servers.push(server);
                homes.push(source);
            }
            if homes.len() == n_servers {
                return Ok(homes);
            }
        }
        ensure!(homes.len() == n_servers, "{N_SOURCES} addresses lead to {servers:?} only");
        Ok(homes)
    }

    fn first(&mut self, slot: usize) -> Result<Seen> {
        self.client.forget(slot)?;
        self.visit(slot, slot).with_context(|| format!("first visit from address {slot}"))
    }

    /// Offers sessions in turn, each time from another address than the last of that client.
    fn offer(&mut self, homes: &[usize], n_offers: usize) -> Tally {
        let mut tally = Tally::default();
        let mut last = homes.to_vec();
        // A client that was left without a session gets one and has another turn.
        for turn in 0..2 * n_offers {
            if tally.offered == n_offers || tally.errors == MAX_ERRORS {
                break;
            }
            let client = turn % homes.len();
            last[client] = next_address(turn, last[client]);
            match self.visit(homes[client], last[client]) {
                Ok(seen) => {
                    tally.offered += usize::from(seen.offered);
                    tally.resumed += usize::from(seen.offered && seen.resumed);
                }
                Err(error) => {
                    tally.offered += 1;
                    tally.errors += 1;
                    tally.sample.get_or_insert(first_line(&error));
                }
            }
        }
        tally
    }

    fn visit(&mut self, slot: usize, from: usize) -> Result<Seen> {
        let source = source(Family::V4, from);
        self.client.visit(&Visit { slot, protocol: self.protocol, source, target: self.target })
    }
}

/// Another address than `last`, scattered so that no hash of addresses falls in step, and the same
/// on every way.
pub(super) fn next_address(turn: usize, last: usize) -> usize {
    // Knuth's multiplicative hash.
    let scattered = (turn + 1).wrapping_mul(2_654_435_761) >> 16;
    match scattered % N_SOURCES {
        same if same == last => (same + 1) % N_SOURCES,
        other => other,
    }
}

/// The gist of an error: what follows is a log.
pub(super) fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::matrix::stack::STACKS;

    /// Servers by address, as source-address persistence chooses them; a session is resumed where
    /// it was made.
    #[derive(Default)]
    struct Fake {
        sessions: HashMap<usize, String>,
        last: HashMap<usize, std::net::IpAddr>,
        steered: bool,
    }

    impl Client for Fake {
        fn visit(&mut self, visit: &Visit) -> Result<Seen> {
            let std::net::IpAddr::V4(v4) = visit.source else { anyhow::bail!("IPv4 is expected") };
            let natural = format!("backend-{}", v4.octets()[3] % 3);
            let held = self.sessions.get(&visit.slot).cloned();
            let offered = held.is_some();
            if offered && self.sessions.len() > 3 {
                let moved = self.last.insert(visit.slot, visit.source);
                assert_ne!(moved, Some(visit.source), "each reconnect is from another address");
            }
            let server = held.clone().filter(|_| self.steered).unwrap_or(natural);
            self.sessions.insert(visit.slot, server.clone());
            Ok(Seen { offered, resumed: held.as_ref() == Some(&server), server })
        }

        fn forget(&mut self, slot: usize) -> Result<()> {
            self.sessions.remove(&slot);
            Ok(())
        }
    }

    fn offered_and_resumed(steered: bool) -> Result<(usize, usize)> {
        let mut fake = Fake { steered, ..Fake::default() };
        let mut walk =
            Walk { client: &mut fake, protocol: Protocol::Tls12, target: vip(Family::V4) };
        let homes = walk.homes(3)?;
        assert_eq!(homes.len(), 3);
        let tally = walk.offer(&homes, 12);
        assert_eq!(tally.errors, 0);
        Ok((tally.offered, tally.resumed))
    }

    #[test]
    fn a_way_that_steers_resumes_all() -> Result<()> {
        assert_eq!(offered_and_resumed(true)?, (12, 12));
        Ok(())
    }

    #[test]
    fn a_way_by_source_address_does_not() -> Result<()> {
        let (offered, resumed) = offered_and_resumed(false)?;
        assert_eq!(offered, 12);
        assert!(resumed < 12, "{resumed}");
        Ok(())
    }

    #[test]
    fn a_failed_connection_counts_as_an_offer_that_was_not_resumed() {
        struct Broken;
        impl Client for Broken {
            fn visit(&mut self, _visit: &Visit) -> Result<Seen> {
                anyhow::bail!("refused\nand a log")
            }
            fn forget(&mut self, _slot: usize) -> Result<()> {
                Ok(())
            }
        }
        let mut walk =
            Walk { client: &mut Broken, protocol: Protocol::Tls12, target: vip(Family::V4) };
        let expected =
            Tally { offered: 3, resumed: 0, errors: 3, sample: Some("refused".to_owned()) };
        assert_eq!(walk.offer(&[0, 1, 2], 12), expected);
    }

    #[test]
    fn steer_is_told_where_key_names_lie() {
        let names = ["00".repeat(16), "01".repeat(16)];
        let place = |word: &str| {
            STACKS.into_iter().find(|stack| stack.word == word).unwrap_or(STACKS[0]).key_name
        };
        let named = steer(Mode::Named13, place("nginx"), &names);
        assert_eq!(named.vip, ["ticket_key_name = \"16@0\""]);
        assert_eq!(named.backend[1], (1, format!("key_names = [\"{}\"]", names[1])));
        assert_eq!(steer(Mode::Ticket13, place("java"), &[]).vip, ["ticket_key_name = \"4@0\""]);
        assert!(steer(Mode::Id12, place("nginx"), &[]).vip.is_empty());
    }
}
