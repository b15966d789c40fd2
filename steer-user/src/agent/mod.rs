//! The agent: brings the plane up or takes it over, then keeps it right until it is told to end.
//! What it leaves behind goes on without it.

mod addresses;
mod asking;
pub mod checks;
mod events;
mod farewell;
mod health;
mod interfaces;
pub(crate) mod key_layout;
mod links;
mod neighbours;
pub mod plan;
mod pools;
mod qdiscs;
mod start;
mod sweep;
mod voice;

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{task::JoinSet, time};

pub(crate) use addresses::unassign;
pub(crate) use farewell::Farewell;
pub(crate) use health::{not_made, require as require_probes};
pub use interfaces::fill_interfaces;
pub(crate) use interfaces::{Port, refusals, takes_xdp};
pub use pools::Pools;
pub(crate) use qdiscs::remove_unused;
pub(crate) use sweep::Rules;
pub use sweep::{Held, Holding, Open, Swept, open, sweep};

use self::{asking::Asking, voice::Voice};
use crate::{
    config::Config,
    control,
    crash::{Step, reached},
    export,
    plane::{self, Lock, PinDir, Plane},
};

/// Shortest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(5);
/// Sweeping takes at most one part in so many of a CPU.
const SWEEP_SHARE: u32 = 20;
/// How often lookup tables follow what health checks found, all of them at once.
const FLUSH: Duration = Duration::from_millis(50);

/// Why an agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// `shutdown` was ready.
    Shutdown,
    /// It was asked at its socket, as `steer detach` does.
    Asked,
}

/// Runs an agent until `shutdown` is ready. Programs, maps and VIPs stay when it ends, however it
/// ends. With `force` it starts even where that destroys entries of tables.
///
/// Belongs on a runtime of one thread, which gives up all capabilities that it does not need, for
/// good.
pub async fn run(config: Config, force: bool, shutdown: impl Future<Output = ()>) -> Result<Ended> {
    plane::kernel::Kernel::running().require()?;
    // While this process may still have the right.
    let voice = config.pools.iter().any(|pool| pool.swallow).then(Voice::open);
    plane::rights::keep_to_start()?;
    let mut config = config;
    let voice =
        voice.and_then(|voice| voice.map_err(|error| do_without_voice(&mut config, &error)).ok());
    let own = PinDir::new(&config.pin_dir);
    let old = start::old(&own).await?;
    let (carries, dir) =
        (old.is_some(), if old.is_some() && !own.exists() { own.aside() } else { own.clone() });
    // What an upgrade left that did not get so far as to be used.
    own.remove_aside()?;
    let fresh = dir.create()?;
    reached(Step::Directory);
    let started = start(&config, &dir, old, force, voice).await;
    if started.is_err() && carries {
        own.remove_aside()?;
    } else if started.is_err() && fresh {
        remove_unused(&plane::detach(&dir)?.qdiscs).await?;
    }
    let Running { mut tasks, stop, lock } = started?;
    plane::rights::keep_to_run()?;
    let ended = tokio::select! {
        () = shutdown => Ok(Ended::Shutdown),
        _ = stop.notified() => Ok(Ended::Asked),
        Some(ended) = tasks.join_next() => Err(ended.map_or_else(|error| anyhow!(error), |task| {
            task.err().unwrap_or_else(|| anyhow!("a task of the agent ended"))
        })),
    };
    tasks.shutdown().await;
    drop(lock);
    log::info!("the agent ends; programs, maps and VIPs stay in place");
    ended
}

/// Nothing is swallowed where nobody can ask for it again.
fn do_without_voice(config: &mut Config, error: &io::Error) {
    log::warn!(
        "no packet socket: {error}; `swallow` is off without it, which takes CAP_NET_RAW at the start"
    );
    config.pools.iter_mut().for_each(|pool| pool.swallow = false);
}

/// What a started agent holds.
struct Running {
    tasks: JoinSet<Result<()>>,
    stop: Arc<tokio::sync::Notify>,
    lock: Lock,
}

/// Everything that can be refused is refused before anything is touched ([`mod@start`]).
async fn start(
    config: &Config,
    dir: &PinDir,
    old: Option<start::Held>,
    force: bool,
    voice: Option<Voice>,
) -> Result<Running> {
    let lock = start::lock(dir).await?;
    reached(Step::Locked);
    let (judged, interfaces) = start::judge(config, dir, force).await?;
    reached(Step::Judged);
    let metrics = match config.metrics {
        Some(address) => Some(export::bind(address).await?),
        None => None,
    };
    let listener = control::bind(&config.socket, dir.root())?;
    reached(Step::SocketBound);
    let up = start::bring_up(config, dir, old.as_ref().map(|held| &held.old), &judged, &interfaces)
        .await?;
    let start::Up { dir, pools, programs, attached } = up;
    let dir = &dir;

    let pools = Arc::new(Mutex::new(pools));
    let stop = Arc::new(tokio::sync::Notify::new());
    let gauges = Arc::new(Mutex::new(Swept::default()));
    let mut tasks = JoinSet::new();
    let standing = checks::Standing::default();
    tasks.spawn(control::serve(listener, Arc::clone(&pools), Arc::clone(&stop), standing.clone()));
    tasks.spawn(checks::run(checks::Watched {
        config: config.clone(),
        dir: dir.clone(),
        pools: Arc::clone(&pools),
        swept: Arc::clone(&gauges),
        standing: standing.clone(),
    }));
    tasks.spawn(neighbours::run(Plane::open(dir)?));
    tasks.spawn(health::run(Arc::clone(&pools)));
    tasks.spawn(health::follow(Arc::clone(&pools)));
    tasks.spawn(interfaces::watch(Plane::open(dir)?, config.clone()));
    // The programs know of it before the control socket answers: who asks whether the agent is there
    // may count on it.
    let asking = voice.map(|voice| {
        let mut asking = Asking::new(voice, Plane::open(dir)?);
        asking.ask().map(|()| asking)
    });
    let asking = asking.transpose()?;
    tasks.spawn(events::run(Plane::events(dir)?, Arc::clone(&pools), asking));
    if let Some(listener) = metrics {
        tasks.spawn(export::serve(listener, Plane::open(dir)?, Arc::clone(&gauges), standing));
    }
    tasks.spawn(flush(Arc::clone(&pools)));
    tasks.spawn(
        links::Links::new(config.clone(), dir.clone(), programs, &attached, Arc::clone(&pools))
            .keep(),
    );
    tasks.spawn(keep(Plane::open(dir)?, pools, gauges));
    reached(Step::Serving);
    Ok(Running { tasks, stop, lock })
}

/// Has the lookup tables follow what health checks found, for ever: each once, however many
/// backends changed.
async fn flush(pools: Arc<Mutex<Pools>>) -> Result<()> {
    let mut last = None;
    loop {
        time::sleep(FLUSH).await;
        let flushed = pools.lock().unwrap_or_else(PoisonError::into_inner).flush();
        let trouble = flushed.err().map(|error| format!("{error:#}"));
        if let Some(trouble) = trouble.as_ref().filter(|trouble| last.as_ref() != Some(*trouble)) {
            log::error!("bring a lookup table up to date: {trouble}");
        }
        last = trouble;
    }
}

/// Sweeps the tables for ever. What goes wrong is said and tried again: traffic goes on, and so
/// does the agent.
async fn keep(plane: Plane, pools: Arc<Mutex<Pools>>, gauges: Arc<Mutex<Swept>>) -> Result<()> {
    let mut plane = plane;
    loop {
        let started = Instant::now();
        let walk = move || {
            let swept = sweep(&mut plane);
            (plane, swept)
        };
        let (given_back, swept) =
            tokio::task::spawn_blocking(walk).await.context("sweep the tables")?;
        plane = given_back;
        let done = swept.and_then(|swept| {
            reconcile(&pools, &swept)?;
            log::trace!("swept: {swept:?}");
            *gauges.lock().unwrap_or_else(PoisonError::into_inner) = swept;
            Ok(())
        });
        if let Err(error) = done {
            log::error!("sweep the tables: {error:#}; it is tried again");
        }
        time::sleep(SWEEP.max(started.elapsed() * SWEEP_SHARE)).await;
    }
}

/// Does to the pools what a sweep tells: numbers that nothing names are free; configured names
/// stand in their map.
fn reconcile(pools: &Mutex<Pools>, swept: &Swept) -> Result<()> {
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    pools.note_held(&swept.held);
    pools.release(&swept.named)?;
    pools.keep_names()
}
