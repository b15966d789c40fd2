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
pub(crate) mod moves;
mod neighbours;
pub mod plan;
mod pools;
mod qdiscs;
pub mod reload;
mod start;
mod sweep;
mod voice;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::FutureExt as _;
use tokio::{net::TcpListener, signal::unix::Signal, sync::mpsc, task::JoinSet, time};

pub(crate) use addresses::unassign;
pub(crate) use farewell::Farewell;
pub(crate) use health::{not_made, require as require_probes};
pub use interfaces::fill_interfaces;
pub(crate) use interfaces::{Port, refusals, takes_xdp};
pub use pools::Pools;
pub(crate) use qdiscs::remove_unused;
pub(crate) use sweep::Rules;
pub use sweep::{Held, Holding, Open, Swept, open, sweep};

use self::{
    asking::Asking,
    reload::{Files, Given, InForce, Inherited, Wish},
    voice::Voice,
};
use crate::{
    config::Config,
    control,
    crash::{Step, reached},
    export, ha,
    plane::{self, Lock, PinDir, Plane},
    supervisor::{Link, Start},
};

/// Shortest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(5);
/// Sweeping takes at most one part in so many of a CPU.
const SWEEP_SHARE: u32 = 20;
/// How often lookup tables follow what health checks found, all of them at once.
const FLUSH: Duration = Duration::from_millis(50);
/// How many may wait for a configuration to be judged.
pub(crate) const WISHES: usize = 4;

/// Why a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// `shutdown` was ready.
    Shutdown,
    /// It was asked at its socket, as `steer detach` does.
    Asked,
    /// Another one goes on with another configuration.
    Reload,
}

/// What a worker is to do.
#[derive(Debug)]
pub struct Task {
    /// Where its configuration is.
    pub files: Files,
    /// Whether its first start may destroy entries of tables.
    pub force: bool,
    /// With what it begins.
    pub start: Start,
    /// What tells of it.
    pub link: Link,
    /// What has it read its configuration again.
    pub hangup: Signal,
}

/// Runs an agent until `shutdown` is ready, or another worker is to go on. Programs, maps and VIPs
/// stay when it ends, however it ends.
///
/// Belongs on a runtime of one thread, which gives up all capabilities that it does not need, for
/// good.
///
/// # Errors
/// Where its start is refused, or it cannot go on.
pub async fn run(task: Task, shutdown: impl Future<Output = ()>) -> Result<Ended> {
    plane::kernel::Kernel::running().require()?;
    let Task { files, force, start, link, hangup } = task;
    let (given, reload, inherited, is_back) = match start {
        Start::First => (files.own()?, None, Inherited::default(), false),
        Start::Reload(handed) => {
            let (reload, inherited) = reload::take(handed)?;
            (reload.new.clone(), Some(reload), inherited, false)
        }
        Start::Back(handed) => {
            let (reload, inherited) = reload::take(handed)?;
            (reload.old.clone(), Some(reload), inherited, true)
        }
    };
    let force = reload.as_ref().map_or(force, |reload| reload.force && !is_back);
    let started = begin(&files, given, force, inherited).await;
    let begun = match (started, reload) {
        (Ok(begun), None) => begun,
        (Ok(begun), Some(reload)) => {
            if is_back {
                reload.undone().await
            } else {
                reload.done().await
            }
            begun
        }
        (Err(error), Some(reload)) => {
            reload.failed(&error).await;
            return Err(error);
        }
        (Err(error), None) => return Err(error),
    };
    link.up(&begun.status())?;
    serve(begun, &files, &link, hangup, shutdown).await
}

/// An agent whose start is through.
struct Begun {
    given: Arc<Given>,
    /// As it was given.
    config: Config,
    /// What stood in the files that it names.
    read: reload::Contents,
    running: Running,
}

impl Begun {
    /// For the service manager.
    fn status(&self) -> String {
        format!("{}: {}", self.given.file.display(), self.config.counts())
    }
}

async fn begin(files: &Files, given: Given, force: bool, inherited: Inherited) -> Result<Begun> {
    let config = files.config(&given)?;
    let given = Arc::new(given);
    let (asked, read) = (config.clone(), reload::Contents::of(&config));
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
    let own_file = std::path::absolute(&files.own).context("find the configuration")?;
    let files = Arc::new(Files { own: own_file, ..files.clone() });
    let way = Way { given: Arc::clone(&given), files, force, voice, inherited };
    let started = start(&config, &dir, old, way).await;
    if started.is_err() && carries {
        own.remove_aside()?;
    } else if started.is_err() && fresh {
        remove_unused(&plane::detach(&dir)?.qdiscs).await?;
    }
    let running = started?;
    plane::rights::keep_to_run()?;
    Ok(Begun { given, config: asked, read, running })
}

/// Looks after a gateway until somebody ends that, or another worker is to go on.
async fn serve(
    begun: Begun,
    files: &Files,
    link: &Link,
    mut hangup: Signal,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended> {
    let status = begun.status();
    let Begun { given, config, read, mut running } = begun;
    let in_force = InForce { files, given: &given, config: &config, read: &read };
    let mut alive = link.watchdog().map(|every| time::interval(every / 3));
    let mut shutdown = std::pin::pin!(shutdown);
    let ended = loop {
        let wish = tokio::select! {
            () = &mut shutdown => break Ok(Ended::Shutdown),
            _ = running.stop.notified() => break Ok(Ended::Asked),
            Some(ended) = running.tasks.join_next() => {
                break Err(ended.map_or_else(|error| anyhow!(error), |task| {
                    task.err().unwrap_or_else(|| anyhow!("a task of the agent ended"))
                }));
            }
            () = turn(&mut alive) => {
                link.alive()?;
                continue;
            }
            Some(()) = hangup.recv() => Wish::of_signal(),
            Some(wish) = running.wishes.recv() => wish,
        };
        link.reloading()?;
        let files = match handed_over(&in_force, &mut running, wish).await {
            Ok(files) => files,
            Err(error) => break Err(error),
        };
        // Whoever was told meanwhile that it ends is not let down.
        if running.stop.notified().now_or_never().is_some() {
            break Ok(Ended::Asked);
        }
        if let Some(files) = files {
            running.tasks.shutdown().await;
            link.succeed(&files)?;
            return Ok(Ended::Reload);
        }
        link.up(&status)?;
    };
    running.tasks.shutdown().await;
    drop(running);
    log::info!("the agent ends; programs, maps and VIPs stay in place");
    ended
}

/// Judges what is to be put in force; what the next worker gets, where there is to be one. Who asked
/// is answered, but where the next one does it.
///
/// # Errors
/// Where nothing can be handed over: whoever waits was let go by then.
async fn handed_over(
    in_force: &InForce<'_>,
    running: &mut Running,
    mut wish: Wish,
) -> Result<Option<Vec<OwnedFd>>> {
    let given = match wish.given.take().map_or_else(|| in_force.files.own(), Ok) {
        Ok(given) => given,
        Err(error) => {
            reload::refuse(wish, &error).await;
            return Ok(None);
        }
    };
    let file = given.file.clone();
    let next = match in_force.judge(given, wish.force).await {
        Ok(Some(next)) => next,
        Ok(None) => {
            reload::settled(file, wish).await;
            return Ok(None);
        }
        Err(error) => {
            reload::refuse(wish, &error).await;
            return Ok(None);
        }
    };
    running.wishes.close();
    let waiting = std::iter::from_fn(|| running.wishes.try_recv().ok()).collect();
    in_force.hand_over(running, &next, wish, waiting).context("reload").map(Some)
}

/// The next turn, if turns are counted at all.
async fn turn(interval: &mut Option<time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
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
    listener: Arc<control::Listener>,
    metrics: Option<(SocketAddr, Arc<TcpListener>)>,
    wishes: mpsc::Receiver<Wish>,
}

/// How a start comes about, beside its configuration.
struct Way {
    given: Arc<Given>,
    /// As who asks elsewhere has to name them.
    files: Arc<Files>,
    force: bool,
    voice: Option<Voice>,
    inherited: Inherited,
}

/// Everything that can be refused is refused before anything is touched ([`mod@start`]).
async fn start(
    config: &Config,
    dir: &PinDir,
    old: Option<start::Held>,
    way: Way,
) -> Result<Running> {
    let Way { given, files, force, voice, mut inherited } = way;
    inherited.unlock()?;
    let lock = start::lock(dir).await?;
    reached(Step::Locked);
    let (judged, interfaces) = start::judge(config, dir, force).await?;
    reached(Step::Judged);
    let metrics = match config.metrics {
        Some(address) => Some((address, Arc::new(inherited.metrics(address).await?))),
        None => None,
    };
    let listener = Arc::new(inherited.control(&config.socket, dir)?);
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
    let replication = ha::Shared::default();
    // What a worker before this one had open is this one's from now on.
    listener.keep();
    let (wish, wishes) = mpsc::channel(WISHES);
    for waiting in inherited.close(dir)? {
        // As many may have waited as may wait.
        wish.try_send(waiting).ok();
    }
    let desk = control::Desk {
        pools: Arc::clone(&pools),
        stop: Arc::clone(&stop),
        standing: standing.clone(),
        given,
        files,
        wishes: wish,
        replication: config.ha.is_some().then(|| replication.clone()),
    };
    tasks.spawn(control::serve(Arc::clone(&listener), desk));
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
    let moves = moves::Moves::default();
    let ring = Plane::events(dir)?;
    tasks.spawn(events::run(ring, Arc::clone(&pools), asking, moves.clone()));
    if let Some((_, listener)) = &metrics {
        tasks.spawn(export::serve(
            Arc::clone(listener),
            Plane::open(dir)?,
            Arc::clone(&gauges),
            standing,
            moves,
            config.ha.is_some().then(|| replication.clone()),
        ));
    }
    if let Some(ha) = &config.ha {
        tasks.spawn(ha::run(ha.clone(), dir.clone(), judged.fresh, replication));
    }
    tasks.spawn(flush(Arc::clone(&pools)));
    tasks.spawn(
        links::Links::new(config.clone(), dir.clone(), programs, &attached, Arc::clone(&pools))
            .keep(),
    );
    tasks.spawn(keep(Plane::open(dir)?, pools, gauges));
    reached(Step::Serving);
    Ok(Running { tasks, stop, lock, listener, metrics, wishes })
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
