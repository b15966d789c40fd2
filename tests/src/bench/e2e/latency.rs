//! What each way adds to a resumption: one handshake at a time, the ways in turns.

use std::{net::TcpStream, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{
    crowd::visit,
    lane::{Lane, Track, Way},
};
use crate::bench::record::{median, percentile};

/// Handshakes on one track.
pub(super) struct Times {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) moves: bool,
    /// From TCP connect to Finished, microseconds.
    pub(super) handshakes: Vec<f64>,
    pub(super) resumed: usize,
    pub(super) errors: usize,
    pub(super) sample: Option<String>,
    /// Flows that were re-homed meanwhile, on this and the lane's other tracks.
    pub(super) rehomed: u64,
    /// From a TCP connect of the gateway to its end, to backend 0, microseconds; on steer's ways.
    pub(super) syns: Vec<f64>,
}

/// Measures `n` resumptions of session IDs on every track.
pub(super) fn measure(lanes: &[Lane<'_>], n: usize) -> Result<Vec<Times>> {
    let tracks = lanes.iter().map(Lane::tracks).collect::<Result<Vec<_>>>()?;
    let mut tracks: Vec<_> = tracks.into_iter().flatten().collect();
    // No two of one lane in succession: the second would find it warm in the caches.
    tracks.sort_by_key(|track| track.moves);
    tracks.iter().try_for_each(Track::warm_up)?;
    let before = tracks.iter().map(|track| track.lane.rehomed()).collect::<Result<Vec<_>>>()?;
    let mut times: Vec<_> = tracks.iter().map(Times::none_of).collect();
    // A thread of its own: it goes from namespace to namespace.
    std::thread::scope(|scope| {
        let walk = scope.spawn(|| {
            for round in 0..n {
                for index in 0..tracks.len() {
                    let index = (index + round) % tracks.len();
                    times[index].take(&tracks[index])?;
                }
            }
            anyhow::Ok(())
        });
        walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    for ((times, track), before) in times.iter_mut().zip(&tracks).zip(before) {
        times.rehomed = track.lane.rehomed()? - before;
        let is_steer = matches!(times.way, Way::Steer(_));
        // A port used again meets its old flow, whose backend is the owner already: nothing moves.
        ensure!(
            !is_steer || times.rehomed as usize * 10 >= n * 9,
            "{}: {} re-homed",
            times.name,
            times.rehomed
        );
    }
    Ok(times)
}

impl Times {
    fn none_of(track: &Track<'_>) -> Self {
        Self {
            name: track.name.clone(),
            way: track.lane.way,
            moves: track.moves,
            handshakes: Vec::new(),
            resumed: 0,
            errors: 0,
            sample: None,
            rehomed: 0,
            syns: Vec::new(),
        }
    }

    fn take(&mut self, track: &Track<'_>) -> Result<()> {
        track.lane.run.lab.client().enter()?;
        match visit(&track.client, &track.dial()) {
            Ok(handshake) => {
                self.handshakes.push(handshake.time.as_secs_f64() * 1e6);
                self.resumed += usize::from(handshake.resumed);
            }
            Err(error) => {
                self.errors += 1;
                self.sample.get_or_insert(format!("{error:#}"));
            }
        }
        if matches!(self.way, Way::Steer(_)) {
            self.syns.push(syn_time(track.lane)?);
        }
        Ok(())
    }

    /// A percentile of the handshakes, microseconds.
    pub(super) fn time(&self, percent: usize) -> f64 {
        percentile(&self.handshakes, percent).unwrap_or(f64::NAN)
    }

    /// One SYN and SYN-ACK between gateway and backend, the median.
    pub(super) fn syn(&self) -> f64 {
        median(&self.syns).unwrap_or(f64::NAN)
    }
}

/// From the gateway's SYN to the backend's SYN-ACK, as its kernel sees it: a TCP connect,
/// microseconds.
fn syn_time(lane: &Lane<'_>) -> Result<f64> {
    lane.run.lab.gateway().enter()?;
    let start = Instant::now();
    TcpStream::connect(lane.run.backend_address(0))
        .context("connect from the gateway to a backend")?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
