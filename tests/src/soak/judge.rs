//! The account: what is left when the chaos is over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use steer_common::{
    counters::Counter,
    shared::{FlowKey, Pending},
};

use super::{
    SESSION_TIMEOUT,
    chaos::{Chaos, Sample, await_backends},
    crowd::Member,
    dice::Dice,
    progress,
};
use crate::{
    agent::{Agent, Counts},
    scenario::{N_SOURCES, Run},
};

/// Visits that judge a session, each from another address.
const VISITS: usize = 3;
/// Sessions used as long ago as this might time out before they are judged.
const TOO_OLD: Duration = Duration::from_secs(SESSION_TIMEOUT.as_secs() / 2);
/// Handshakes are remembered for 180 s, closed flows for 60, and a sweep comes every few seconds.
const EMPTY_AFTER: Duration = Duration::from_secs(240);

/// Entries by table.
type Left = Vec<(String, u64)>;

/// What came out.
pub(super) struct Account {
    /// Sessions that their servers still held.
    pub(super) judged: u64,
    /// Visits that judged them.
    pub(super) n_visits: u64,
    /// Those of the visits that failed or did not resume on the owner, told in words.
    pub(super) lost: Vec<String>,
    /// What was there when the waiting was over.
    pub(super) left: Left,
    pub(super) emptied_after: Option<Duration>,
    /// Growth of the memory of the agent that ran until the end, bytes.
    pub(super) growth: Option<i64>,
    pub(super) counts: Counts,
}

impl Account {
    /// Judges every session, then waits until the tables are empty.
    pub(super) fn settle(
        run: &Run,
        steer: &Agent<'_>,
        chaos: &Chaos<'_>,
        members: Vec<Member>,
    ) -> Result<Self> {
        await_backends(run, steer)?;
        progress("the chaos is over: every session that its server holds is offered again");
        let sessions = sessions(run, chaos, &members);
        drop(members);
        let counts = steer.counts()?;
        progress("waiting until the tables are empty");
        let (left, emptied_after) = emptied(steer)?;
        let growth = growth(&chaos.samples);
        let Sessions { judged, lost, n_visits } = sessions;
        Ok(Self { judged, lost, n_visits, left, emptied_after, growth, counts })
    }

    pub(super) fn n_left(&self) -> u64 {
        self.left.iter().map(|(_, entries)| entries).sum()
    }
}

#[derive(Default)]
struct Sessions {
    judged: u64,
    lost: Vec<String>,
    n_visits: u64,
}

fn sessions(run: &Run, chaos: &Chaos<'_>, members: &[Member]) -> Sessions {
    let (mut seen, mut dice) = (Sessions::default(), Dice::new(7));
    for member in members.iter().filter(|member| member.is_fresh(TOO_OLD)) {
        let Some(held) = member.held else { continue };
        // A server that was killed has forgotten what it had issued.
        if chaos.killed(held.server).is_some_and(|killed| held.since <= killed) {
            continue;
        }
        seen.judged += 1;
        for _ in 0..VISITS {
            seen.n_visits += 1;
            let visit = run.visit(&member.client, &run.dial(dice.below(N_SOURCES)));
            let owner = format!("backend-{}", held.server);
            match visit {
                Ok(handshake) if handshake.resumed && handshake.server == owner => {}
                Ok(handshake) => {
                    seen.lost.push(format!("{:?} of {owner}: {handshake:?}", member.offer))
                }
                Err(error) => seen.lost.push(format!("{:?} of {owner}: {error:#}", member.offer)),
            }
        }
    }
    seen
}

/// Waits until no table has an entry; what is left, and how long it took.
fn emptied(steer: &Agent<'_>) -> Result<(Left, Option<Duration>)> {
    let start = Instant::now();
    loop {
        let left = entries(steer)?;
        if left.iter().all(|(_, entries)| *entries == 0) {
            return Ok((left, Some(start.elapsed())));
        }
        if start.elapsed() > EMPTY_AFTER {
            return Ok((left, None));
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Entries of the tables that `steer status` shows, and of `pending`.
fn entries(steer: &Agent<'_>) -> Result<Left> {
    let status = steer.json("status")?;
    let tables = status["tables"].as_array().context("steer status shows no tables")?;
    let table = |table: &serde_json::Value| {
        Some((table["name"].as_str()?.to_owned(), table["entries"].as_u64()?))
    };
    let mut left: Vec<_> =
        tables.iter().map(table).collect::<Option<_>>().context("read the tables")?;
    let pending = MapData::from_pin(steer.map_pin("pending")).and_then(Map::from_map_data);
    let pending: HashMap<_, FlowKey, Pending> =
        pending.and_then(HashMap::try_from).context("open the map pending")?;
    left.push(("pending".to_owned(), pending.keys().count() as u64));
    Ok(left)
}

/// How much more memory the agent that ran until the end had in the last quarter of its samples
/// than in the first, medians.
fn growth(samples: &[Sample]) -> Option<i64> {
    let of_last: Vec<_> =
        samples.iter().filter(|sample| sample.last_agent).map(|sample| sample.bytes).collect();
    let quarter = of_last.len().div_ceil(4);
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).map(|bytes| bytes.cast_signed())
    };
    Some(median(of_last.get(of_last.len() - quarter..)?)? - median(of_last.get(..quarter)?)?)
}

/// Counters that tell what the gateway did, for the page.
pub(super) const TOLD: [Counter; 14] = [
    Counter::FlowEstablished,
    Counter::Learned,
    Counter::KeyNameLearned,
    Counter::Resumed,
    Counter::ResumptionRejected,
    Counter::SpliceOpened,
    Counter::OwnerDown,
    Counter::OwnerRefused,
    Counter::OwnerSilent,
    Counter::OwnerNoRoute,
    Counter::Bypassed,
    Counter::NoBackend,
    Counter::SessionNoCertificate,
    Counter::SessionCertificateUnseen,
];
