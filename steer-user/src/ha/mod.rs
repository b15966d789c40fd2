//! What one gateway learns all know: sessions, names of ticket keys and re-homed flows go to the
//! other gateways of the cluster by way of stores (Valkey, Redis), each of which has all. Nothing in
//! the path of packets waits for a store.
//!
//! A row says what is so, not what happened ([`record`]): it may come twice, late, or in another
//! order, and all gateways end with the same tables. A message carries rows, is numbered and sealed
//! ([`seal`]). Each gateway writes its own stream and reads those of the others ([`writer`], [`reader`]); where
//! messages are missing, and now and then anyway, all that the other one knows is read, which it
//! writes every few minutes ([`walk`]).

mod age;
mod engine;
mod flows;
mod link;
mod memory;
mod outbox;
mod reader;
pub mod record;
pub(crate) mod seal;
mod status;
mod store;
mod taking;
mod walk;
mod writer;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Result, bail};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use self::{
    engine::Engine, link::Link, memory::Memory, outbox::Outbox, record::Writer, seal::Seal,
    store::Store, walk::Walker,
};
pub use self::{
    status::{PeerReport, Report, Rows, Shared, StoreReport},
    store::acl,
};
use crate::{
    clock,
    config::Ha,
    plane::{PinDir, Plane},
    rows::Names,
};

/// Messages of stores that wait to be taken.
const INBOUND: usize = 64;

/// Whether what `[ha]` names can be used: keys, certificates and the password are read.
///
/// # Errors
/// With the file that cannot.
pub fn check(ha: &Ha) -> Result<()> {
    Seal::read(&ha.key_file, &ha.cluster)?;
    ha.servers.iter().try_for_each(|server| Store::new(ha, server).map(drop))
}

/// Tells and hears for ever. `is_fresh` says that the gateway's tables were empty: then it hears of
/// itself, too, of what it knew in an earlier life.
///
/// # Errors
/// Where the gateway's maps cannot be opened.
pub async fn run(ha: Ha, dir: PinDir, is_fresh: bool, shared: Shared) -> Result<()> {
    let seal = Arc::new(Seal::read(&ha.key_file, &ha.cluster)?);
    // Another one for each life, and in a status the time of its beginning.
    let epoch = clock::time_of_day() * 1_000_000_000 + clock::nanoseconds() % 1_000_000_000;
    let stores = ha
        .servers
        .iter()
        .map(|server| StoreReport { server: server.to_string(), ..StoreReport::default() });
    shared.lock().report = Report {
        cluster: ha.cluster.clone(),
        name: ha.name.clone(),
        // The programs went on while no agent told them anything.
        ready: !is_fresh,
        why: if is_fresh { "the stores are being read" } else { "its own tables were there" }
            .to_owned(),
        stores: stores.collect(),
        ..Report::default()
    };
    let (to, inbound) = mpsc::channel(INBOUND);
    let (mut tasks, mut outboxes) = (JoinSet::new(), Vec::new());
    for (number, server) in ha.servers.iter().enumerate() {
        let outbox = Arc::new(Outbox::default());
        outboxes.push(Arc::clone(&outbox));
        let link = Arc::new(Link {
            number,
            store: Store::new(&ha, server)?,
            name: ha.name.clone(),
            epoch,
            seal: Arc::clone(&seal),
            outbox,
            restored: watch::Sender::new(!is_fresh),
            failed: Mutex::default(),
            shared: shared.clone(),
        });
        let (reads, to) = (Arc::clone(&link), to.clone());
        tasks.spawn(async move { reads.read(to).await });
        tasks.spawn(async move { link.write().await });
    }
    drop(to);
    let plane = Plane::open(&dir)?;
    let engine = Engine {
        names: Names::read(&plane)?,
        walker: Some(Walker::new(Plane::open(&dir)?)),
        plane,
        sequence: 0,
        writer: Writer::default(),
        since: None,
        outboxes,
        synced: HashSet::new(),
        is_fresh,
        began: Instant::now(),
        memory: Memory::default(),
        has: [0; 3],
        walks: 0,
        failed: String::new(),
        shared,
    };
    tokio::select! {
        ended = engine.run(Plane::journal(&dir)?, inbound) => ended,
        _ = tasks.join_next() => bail!("a task of a store ended"),
    }
}
