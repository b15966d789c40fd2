//! A large file over one connection, there and back, every way in turns.

use std::time::Instant;

use anyhow::{Context, Result};

use super::{
    cpu::Cpu,
    lane::{Lane, Track, Way},
};
use crate::{
    agent::Hook,
    bench::record::median,
    client::Connection,
    payload,
    topology::Offloads::{self, ChecksumsOff, On},
};

/// Bytes of the file.
pub(super) const FILE: usize = 100_000_000;
/// The ways, and the links of their labs. XDP needs finished checksums and has no large segments.
pub(super) const LANES: [(Way, Offloads); 6] = [
    (Way::Direct, On),
    (Way::Nft, On),
    (Way::Haproxy, On),
    (Way::Steer(Hook::Tc), On),
    (Way::Direct, ChecksumsOff),
    (Way::Steer(Hook::Xdp), ChecksumsOff),
];

/// Transfers on one track, megabytes (10^6 bytes) per second.
pub(super) struct Transfers {
    pub(super) name: String,
    pub(super) offloads: bool,
    pub(super) down: Vec<f64>,
    pub(super) up: Vec<f64>,
    /// CPU time of clients, servers and gateway for both, milliseconds.
    pub(super) cpu: Vec<f64>,
    pub(super) errors: usize,
    pub(super) sample: Option<String>,
}

impl Transfers {
    /// Medians, down and up.
    pub(super) fn rates(&self) -> [f64; 2] {
        [&self.down, &self.up].map(|rates| median(rates).unwrap_or(f64::NAN))
    }

    /// Its rates by those of another track, medians of the rounds' ratios, down and up.
    pub(super) fn ratios_to(&self, other: &Self) -> [f64; 2] {
        [(&self.down, &other.down), (&self.up, &other.up)].map(|(own, other)| {
            let ratios: Vec<_> = own.iter().zip(other).map(|(own, other)| own / other).collect();
            median(&ratios).unwrap_or(f64::NAN)
        })
    }
}

/// Measures so many rounds.
pub(super) fn measure(
    lanes: &[Lane<'_>],
    rounds: usize,
    progress: &dyn Fn(&str),
) -> Result<Vec<Transfers>> {
    let body = payload::bytes(FILE, 11);
    let mut tracks = Vec::new();
    for (lane, (_, offloads)) in lanes.iter().zip(LANES) {
        lane.run.servers.first().context("a lab without servers")?.put("bulk", &body)?;
        tracks.extend(lane.tracks()?.into_iter().map(|track| (track, offloads == On)));
    }
    tracks.iter().try_for_each(|(track, _)| track.warm_up())?;
    let mut all: Vec<_> =
        tracks.iter().map(|(track, offloads)| Transfers::none_of(track, *offloads)).collect();
    for round in 0..rounds {
        progress(&format!("{} MB each way, round {}", FILE / 1_000_000, round + 1));
        for index in 0..tracks.len() {
            let index = (index + round) % tracks.len();
            let (track, _) = &tracks[index];
            let before = Cpu::of(track.lane)?;
            let down = all[index]
                .outcome(timed(track, |connection| connection.drain("/files/bulk").map(drop)));
            let up =
                all[index].outcome(timed(track, |connection| connection.put("/", &body).map(drop)));
            all[index].down.push(down);
            all[index].up.push(up);
            all[index].cpu.push(Cpu::of(track.lane)?.since(before).sum().as_secs_f64() * 1e3);
        }
    }
    Ok(all)
}

/// Megabytes per second of a transfer on a new connection, from the end of its handshake to the
/// server's FIN: of what is sent to `/` nginx drops the body, and closes behind its last byte.
fn timed(
    track: &Track<'_>,
    transfer: impl FnOnce(&mut Connection) -> Result<()> + Send,
) -> Result<f64> {
    let (_, seconds) = track.lane.run.connect(&track.client, &track.dial(), |connection| {
        let start = Instant::now();
        transfer(connection)?;
        connection.finish()?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(FILE as f64 / 1e6 / seconds)
}

impl Transfers {
    fn none_of(track: &Track<'_>, offloads: bool) -> Self {
        let (down, up, cpu) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: track.name.clone(), offloads, down, up, cpu, errors: 0, sample: None }
    }

    /// The rate, or no number and an error more.
    fn outcome(&mut self, rate: Result<f64>) -> f64 {
        rate.unwrap_or_else(|error| {
            self.errors += 1;
            self.sample.get_or_insert(format!("{error:#}"));
            f64::NAN
        })
    }
}
