//! Probes backends by TCP connections: one that stops answering gets no new flow, one that answers again does.
//!
//! The probes also keep the kernel's neighbour entries towards the backends fresh.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::shared::{BACKEND_PRESENT, BACKEND_UP};
use tokio::{net::TcpStream, task::JoinSet, time};

use super::pools::Pools;
use crate::{address::socket, config::Health};

/// How often it is looked which probes are due.
const TICK: Duration = Duration::from_millis(50);

/// Probes for ever.
pub(super) async fn run(pools: Arc<Mutex<Pools>>) -> Result<()> {
    let mut watched = HashMap::new();
    let mut probes = JoinSet::new();
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => start_due(&pools, &mut watched, &mut probes)?,
            Some(Ok((address, answered))) = probes.join_next() => note(&pools, &mut watched, address, answered)?,
        }
    }
}

/// What is known of one backend's probes.
struct Watch {
    health: Health,
    due: Instant,
    running: bool,
    up: bool,
    tally: u32,
}

impl Watch {
    fn new(health: Health, up: bool) -> Self {
        Self { health, due: Instant::now(), running: false, up, tally: 0 }
    }

    /// Counts an outcome; the new state if it changes.
    fn count(&mut self, answered: bool) -> Option<bool> {
        if answered == self.up {
            self.tally = 0;
            return None;
        }
        self.tally += 1;
        let enough = if answered { self.health.rise } else { self.health.fall };
        if self.tally < enough {
            return None;
        }
        (self.up, self.tally) = (answered, 0);
        Some(answered)
    }
}

type Watched = HashMap<SocketAddr, Watch>;

/// Starts the probes that are due, for the backends that are in a pool right now.
fn start_due(pools: &Mutex<Pools>, watched: &mut Watched, probes: &mut JoinSet<(SocketAddr, bool)>) -> Result<()> {
    let now = Instant::now();
    if watched.values().all(|watch| watch.due > now) && !watched.is_empty() {
        return Ok(());
    }
    refresh(pools, watched)?;
    for (address, watch) in watched.iter_mut().filter(|(_, watch)| watch.due <= now) {
        watch.due = now + watch.health.interval;
        if !std::mem::replace(&mut watch.running, true) {
            probes.spawn(probe(*address, watch.health.timeout));
        }
    }
    Ok(())
}

/// Follows the pools: what came is watched, what went is not.
fn refresh(pools: &Mutex<Pools>, watched: &mut Watched) -> Result<()> {
    let pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    let mut present = HashMap::new();
    for (_, backend) in pools.plane().backends()? {
        let health = pools.health(&backend).filter(|health| health.enabled);
        if let Some(health) = health.filter(|_| backend.flags & BACKEND_PRESENT != 0) {
            present.insert(socket(&backend.endpoint), (health, backend.flags & BACKEND_UP != 0));
        }
    }
    watched.retain(|address, _| present.contains_key(address));
    for (address, (health, up)) in present {
        watched.entry(address).or_insert_with(|| Watch::new(health, up)).up = up;
    }
    Ok(())
}

async fn probe(address: SocketAddr, timeout: Duration) -> (SocketAddr, bool) {
    let connected = time::timeout(timeout, TcpStream::connect(address)).await;
    (address, matches!(connected, Ok(Ok(_))))
}

fn note(pools: &Mutex<Pools>, watched: &mut Watched, address: SocketAddr, answered: bool) -> Result<()> {
    let Some(watch) = watched.get_mut(&address) else { return Ok(()) };
    watch.running = false;
    let Some(up) = watch.count(answered) else { return Ok(()) };
    log::warn!("backend {address} is {}", if up { "up again" } else { "down: it gets no new flow" });
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = pools.set_up(address, up) {
        // It was removed while it was probed.
        log::debug!("{address}: {error:#}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(up: bool, answers: &[bool]) -> Vec<Option<bool>> {
        let mut watch = Watch::new(Health { rise: 2, fall: 3, ..Health::default() }, up);
        answers.iter().map(|answered| watch.count(*answered)).collect()
    }

    #[test]
    fn a_backend_falls_after_three_failures_in_a_row() {
        assert_eq!(
            outcomes(true, &[false, false, true, false, false, false]),
            [None, None, None, None, None, Some(false)]
        );
    }

    #[test]
    fn a_backend_rises_after_two_answers_in_a_row() {
        assert_eq!(outcomes(false, &[true, false, true, true]), [None, None, None, Some(true)]);
    }
}
