//! The agent: brings the plane up or takes it over, then keeps it right until it is told to end. What it leaves behind
//! goes on without it.

mod addresses;
pub mod checks;
mod events;
mod health;
mod interfaces;
mod key_layout;
mod neighbours;
mod pools;
mod qdiscs;
mod sweep;

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{task::JoinSet, time};

pub(crate) use addresses::unassign;
pub(crate) use health::not_made;
use interfaces::Interfaces;
pub use interfaces::fill_interfaces;
pub(crate) use interfaces::takes_xdp;
pub use pools::Pools;
pub(crate) use qdiscs::remove_unused;
pub use sweep::{Swept, sweep};

use crate::{
    address::socket,
    clock,
    config::Config,
    control,
    crash::{Step, reached},
    export,
    plane::{self, Attachment, Lock, PinDir, Plane, Programs, Xdp},
};

/// Shortest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(5);
/// Sweeping takes at most one part in so many of a CPU.
const SWEEP_SHARE: u32 = 20;
/// How long an agent that is ending may hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why an agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// `shutdown` was ready.
    Shutdown,
    /// It was asked at its socket, as `steer detach` does.
    Asked,
}

/// Runs an agent until `shutdown` is ready. Programs, maps and VIPs stay when it ends, however it ends.
///
/// Belongs on a runtime of one thread, which gives up all capabilities that it does not need, for good.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<Ended> {
    plane::kernel::Kernel::running().require()?;
    plane::rights::keep_to_start()?;
    let dir = PinDir::new(&config.pin_dir);
    let fresh = dir.create()?;
    reached(Step::Directory);
    let brought_up = start(&config, &dir).await;
    if brought_up.is_err() && fresh {
        remove_unused(&plane::detach(&dir)?.qdiscs).await?;
    }
    let Running { mut tasks, stop, lock } = brought_up?;
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

/// What a started agent holds.
struct Running {
    tasks: JoinSet<Result<()>>,
    stop: Arc<tokio::sync::Notify>,
    lock: Lock,
}

/// Everything that can be refused is refused before anything is touched.
async fn start(config: &Config, dir: &PinDir) -> Result<Running> {
    let lock = lock(dir).await?;
    reached(Step::Locked);
    let interfaces = Interfaces::find(config).await?;
    let metrics = match config.metrics {
        Some(address) => Some(export::bind(address).await?),
        None => None,
    };
    let listener = control::bind(&config.socket)?;
    reached(Step::SocketBound);
    let (pools, programs, attached) = bring_up(config, dir, &interfaces).await?;

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
    let managed = interfaces.targets.iter().map(|target| target.interface.clone()).collect();
    tasks.spawn(interfaces::watch(Plane::open(dir)?, managed));
    tasks.spawn(events::run(Plane::events(dir)?, Arc::clone(&pools)));
    if let Some(listener) = metrics {
        tasks.spawn(export::serve(listener, Plane::open(dir)?, Arc::clone(&gauges), standing));
    }
    tasks.spawn(keep(config.clone(), dir.clone(), pools, gauges, programs, attached));
    reached(Step::Serving);
    Ok(Running { tasks, stop, lock })
}

/// Becomes the agent of this directory; one that is just ending is waited for.
async fn lock(dir: &PinDir) -> Result<Lock> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while Instant::now() < deadline {
        if let Some(lock) = dir.lock()? {
            return Ok(lock);
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    bail!("an agent runs already for {}", dir.root().display())
}

/// Loads, fills, attaches: in this order, so that a program never runs over maps that are not filled, and one of an
/// agent before runs until the new one takes its place.
async fn bring_up(
    config: &Config,
    dir: &PinDir,
    interfaces: &Interfaces,
) -> Result<(Pools, Programs, Vec<Attachment>)> {
    let mut programs = Programs::load(dir, &config.sizes)?;
    let plane = Plane::open(dir)?;
    let fresh = plane.vips()?.is_empty();
    addresses::withdraw(config, plane.vips()?.iter().map(|(key, _)| socket(key).ip())).await?;
    reached(Step::VipsWithdrawn);
    let mut pools = Pools::adopt(plane, config, interfaces.mtu)?;
    reached(Step::PoolsWritten);
    if let Some(time) = config.takeover.filter(|_| fresh) {
        take_over(&mut pools, time)?;
    }
    set_xdp(&mut pools, interfaces.targets.iter().any(|target| target.xdp != Xdp::Never))?;
    reached(Step::SettingsWritten);
    let attached = programs.attach(dir, &interfaces.targets)?;
    interfaces::fill_interfaces(pools.plane_mut()).await?;
    set_xdp(&mut pools, attached.iter().any(|attachment| attachment.xdp))?;
    if programs.finish_resize(dir)? {
        *pools.plane_mut() = Plane::open(dir)?;
    }
    for Attachment { interface, xdp, .. } in &attached {
        log::info!("{interface}: {}", if *xdp { "XDP and TC" } else { "TC" });
    }
    addresses::assign(config).await?;
    reached(Step::VipsAssigned);
    Ok((pools, programs, attached))
}

/// For so long flows of another gateway are taken over.
fn take_over(pools: &mut Pools, time: Duration) -> Result<()> {
    let mut settings = pools.plane().settings()?;
    settings.takeover_until = clock::seconds().saturating_add(time.as_secs() as u32).max(1);
    log::warn!("flows of another gateway are taken over for {} s", time.as_secs());
    pools.plane_mut().set_settings(&settings)
}

/// Tells the XDP programs whether they forward; bypass stays what it is.
fn set_xdp(pools: &mut Pools, xdp: bool) -> Result<()> {
    let mut settings = pools.plane().settings()?;
    settings.xdp = u32::from(xdp);
    pools.plane_mut().set_settings(&settings)
}

/// Sweeps the tables and looks after the links, for ever.
async fn keep(
    config: Config,
    dir: PinDir,
    pools: Arc<Mutex<Pools>>,
    gauges: Arc<Mutex<Swept>>,
    mut programs: Programs,
    mut attached: Vec<Attachment>,
) -> Result<()> {
    let mut plane = Plane::open(&dir)?;
    loop {
        let started = Instant::now();
        let walk = move || sweep(&mut plane).map(|swept| (plane, swept));
        let (given_back, swept) = tokio::task::spawn_blocking(walk).await.context("sweep the tables")??;
        plane = given_back;
        put_right(&pools, &swept)?;
        log::trace!("swept: {swept:?}");
        *gauges.lock().unwrap_or_else(PoisonError::into_inner) = swept;
        look_after(&config, &dir, &mut programs, &mut attached).await;
        time::sleep(SWEEP.max(started.elapsed() * SWEEP_SHARE)).await;
    }
}

/// Does to the pools what a sweep tells: numbers that nothing names are free; configured names stand in their map.
fn put_right(pools: &Mutex<Pools>, swept: &Swept) -> Result<()> {
    let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
    pools.release(&swept.named)?;
    pools.keep_names()
}

/// Brings programs and VIPs back where an interface vanished and came back. What fails is tried again.
async fn look_after(config: &Config, dir: &PinDir, programs: &mut Programs, attached: &mut [Attachment]) {
    if attached.iter().any(|attachment| plane::ifindex(&attachment.interface).is_none()) {
        // Its VIPs wait for it: elsewhere their neighbours would not find them.
        return;
    }
    let reattached = programs.reattach(dir, attached);
    let assigned = addresses::assign(config).await;
    for error in [reattached, assigned].into_iter().filter_map(Result::err) {
        log::error!("{error:#}");
    }
}
