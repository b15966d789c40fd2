//! `steer watch`: reads the programs' own ring, no agent needed.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use steer_common::counters::Counter;

use super::Place;
use crate::{
    clock::parse_duration,
    report::{Clients, Watch as Watching, WatchFilter},
    show,
};

/// How often the ring is read. It has room for some 3000 records.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Args, Debug)]
pub(super) struct Watch {
    /// Flows of these clients: an address, with or without a port, or a prefix
    #[arg(long, value_name = "ADDRESS[:PORT]|PREFIX")]
    client: Option<Clients>,
    /// Flows that come to this backend first, or whose verdict names it
    #[arg(long, value_name = "ADDRESS:PORT")]
    backend: Option<SocketAddr>,
    /// These verdicts only, by the words of their counters (`steer stats --all`), e.g. rehome; may
    /// be repeated
    #[arg(long, value_name = "WORD", value_parser = counter)]
    verdict: Vec<Counter>,
    /// End after so many lines; 0: never
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// End after so long, e.g. 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    length: Option<Duration>,
}

fn counter(word: &str) -> Result<Counter, String> {
    Counter::from_word(word).ok_or_else(|| {
        format!("no counter is called `{word}`; `steer stats --all` shows what there is")
    })
}

impl Watch {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let Self { client, backend, verdict, count, length } = self;
        let dir = place.gateway()?;
        let filter = WatchFilter { clients: client, backend, verdicts: verdict };
        let mut watch = Watching::begin(&dir, place.plane()?, filter)?;
        let mut lines = show::Decisions::new(place.format());
        let end = length.map(|length| Instant::now() + length);
        let mut lost = 0;
        lines.head()?;
        while watch.look(|decision| lines.line(&decision) && (count == 0 || lines.n() < count))? {
            if end.is_some_and(|end| Instant::now() >= end) || !lines.flush() {
                break;
            }
            let now = watch.lost()?;
            if now != lost {
                show::note(format_args!(
                    "{} were not told: more happens than is read (`watch-lost`)",
                    now - lost
                ));
                lost = now;
            }
            thread::sleep(LOOK);
        }
        lines.finish()
    }
}
