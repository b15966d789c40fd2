//! What a gateway makes of what the others tell it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    age,
    engine::{Engine, WALK},
    flows,
    reader::{Inbound, Way},
    record::{self, Row},
    status::Rows,
};
use crate::{clock, rows::Told};

/// Rows that are taken at a time, before others get a turn.
const TAKEN_AT_ONCE: usize = 128;
/// A gateway has begun for so long, and is as old as the others say.
const YOUNG: Duration = Duration::from_secs(60);

impl Engine {
    /// Takes what a store brought.
    pub(super) async fn take(&mut self, came: Inbound) -> Result<()> {
        match came {
            Inbound::Synced(store) => {
                self.synced.insert(store);
                self.judge();
                Ok(())
            }
            Inbound::Anew(gateway) => {
                self.memory.claim(&gateway);
                Ok(())
            }
            Inbound::Through(gateway, since) => self.forget_untold(&gateway, since),
            // What its operator did since (`steer leave`) counts more than what others say.
            Inbound::Ages(ages) if self.is_fresh && self.began.elapsed() < YOUNG => {
                age::take(&mut self.plane, &ages)
            }
            Inbound::Ages(_) => Ok(()),
            Inbound::Rows { gateway, text, age, way } => {
                self.take_rows(&gateway, &text, age, way).await
            }
        }
    }

    async fn take_rows(&mut self, gateway: &str, text: &[u8], age: u64, way: Way) -> Result<()> {
        let Ok(read) = record::read(text) else {
            self.shared.lock().report.refused += 1;
            return Ok(());
        };
        let later = u32::try_from(age / 1000).unwrap_or(u32::MAX);
        let (mut rows, mut mended) = (Rows { unknown: read.unknown, ..Rows::default() }, 0);
        let mut failed = Ok(());
        for some in read.rows.chunks(TAKEN_AT_ONCE) {
            let now = clock::seconds();
            for row in some {
                match self.take_row(row, gateway, later, now) {
                    Ok(told) => {
                        mended += u64::from(way == Way::Compared && told == Told::Taken);
                        *rows.of(told) += 1;
                    }
                    Err(error) => failed = Err(error),
                }
            }
            tokio::task::yield_now().await;
        }
        let mut noted = self.shared.lock();
        noted.report.rows.add(&rows);
        noted.report.mended += mended;
        if let Some(peer) = noted.peers.get_mut(gateway) {
            peer.report.rows += read.rows.len() as u64;
            peer.report.unknown += read.unknown;
            if way == Way::Told {
                peer.note_lag(age as f32);
            }
        }
        failed
    }

    /// `later`: seconds since the row was told.
    fn take_row(&mut self, row: &Row, gateway: &str, later: u32, now: u32) -> Result<Told> {
        let Self { plane, names, memory, .. } = self;
        match row {
            Row::Fact(fact) => {
                let fact = fact.clone().older(later);
                let told = names.take(plane, &fact, now)?;
                // What was touched before the last looks is not told anyway.
                if told == Told::Taken
                    && fact.idle < 3 * WALK.as_secs() as u32
                    && let Some((key, last_seen)) = names.stamp(&fact, now)
                {
                    memory.note_fact(key, last_seen);
                }
                Ok(told)
            }
            Row::Splice(splice) => {
                let mut splice = *splice;
                splice.numbers.idle = splice.numbers.idle.saturating_add(later);
                let Ok(key) = flows::key(names, &splice.name) else { return Ok(Told::Elsewhere) };
                let before = plane.splices.find(&key)?;
                let told = flows::take(names, plane, &splice, now)?;
                // What this gateway knows first-hand is its own to tell.
                let is_others = before.is_none() || memory.is_others(&key);
                let there = plane.splices.find(&key)?.filter(|_| is_others);
                if let Some(flow) = there.filter(|flow| flows::isn(flow) == splice.numbers.isn) {
                    memory.note_flow(key, flow.seen, gateway);
                }
                Ok(told)
            }
            Row::Over(name, isn) => {
                let Ok(key) = flows::key(names, name) else { return Ok(Told::Elsewhere) };
                memory.forget_flow(&key);
                flows::forget(plane, &key, *isn, later, now)
            }
        }
    }

    /// Forgets flows that a gateway told of before then, and does not know any more.
    fn forget_untold(&mut self, gateway: &str, since: Instant) -> Result<()> {
        let mut failed = Ok(());
        for (key, seen) in self.memory.take_untold(gateway, since) {
            let forgotten = flows::forget_untold(&mut self.plane, &key, seen);
            failed = failed.and(forgotten);
        }
        failed
    }
}
