//! A start is a transaction: judged, tried, written, switched to; what fails before the switch is
//! undone.
//!
//! 1. [`plan::judge`] reads and refuses; nothing is touched.
//! 2. Programs are loaded, tables of new sizes are made beside the old ones, and new links are made
//!    without pins: all of it goes when the process does.
//! 3. What was there is kept ([`Before`]); pools are written. An agent that dies from here on
//!    leaves what the next one puts back first, whatever file it has.
//! 4. The programs behind the links are replaced, what is not asked for any more goes, and what was
//!    kept is forgotten.
//!
//! Where the state of an older layout is carried over, all of this is done with a new state beside
//! it, which has its name from the beginning of step 4 on (`plane::carry`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use steer_common::shared::SWITCH_RESIZING;
use tokio::time;

use super::{
    Pools, addresses,
    interfaces::{self, Interfaces},
    plan::{self, Judged},
    state, sweep,
};
use crate::{
    address::socket,
    clock,
    config::{Config, Interface},
    crash::{Step, reached},
    plane::{self, Attachment, Before, Lock, Old, PinDir, Plane, Programs, Target, Xdp},
    service::Service,
};

/// How long an agent that is ending may hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long handshakes wait at most for what is carried over or gets another size, seconds: if this
/// agent dies, they go on by themselves.
const FILLING: u32 = 5;
/// MTU of Ethernet, bytes: where no interface is there that could tell its own.
const ETHERNET_MTU: u32 = 1500;

/// What a start made.
pub(super) struct Up {
    pub(super) dir: PinDir,
    pub(super) pools: Pools,
    pub(super) programs: Programs,
    pub(super) attached: Vec<Attachment>,
}

/// The state of an older layout, and that no agent of its own looks after it.
pub(super) struct Held {
    pub(super) old: Old,
    _lock: Lock,
}

/// Finds the state of an older layout that is to be carried over.
pub(super) async fn old(own: &PinDir) -> Result<Option<Held>> {
    let Some(old) = Old::find(own)? else { return Ok(None) };
    let lock = lock(old.dir()).await?;
    Ok(Some(Held { old, _lock: lock }))
}

/// Becomes the agent of this directory; one that is just ending is waited for.
pub(super) async fn lock(dir: &PinDir) -> Result<Lock> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while Instant::now() < deadline {
        if let Some(lock) = dir.lock()? {
            return Ok(lock);
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    bail!("an agent runs already for {}", dir.root().display())
}

/// Judges what a start would do; touches nothing.
pub(super) async fn look(
    config: &Config,
    dir: &PinDir,
    force: bool,
) -> Result<(Judged, Interfaces)> {
    let interfaces = present(config).await?;
    interfaces::refuse_bridges(&config.bridges).await?;
    let judged = plan::judge(config, dir)?;
    if !force {
        judged.refuse_destruction()?;
    }
    Ok((judged, interfaces))
}

/// Puts back what a start changed that did not get through, then judges this one.
pub(super) async fn judge(
    config: &Config,
    dir: &PinDir,
    force: bool,
) -> Result<(Judged, Interfaces)> {
    let mtu = present(config).await?.mtu;
    put_back(config, dir, mtu).context("put back what a start left half done")?;
    let (judged, interfaces) = look(config, dir, force).await?;
    let (version, counts) = (env!("CARGO_PKG_VERSION"), config.counts());
    let (file, place) = (config.file.display(), dir.root().display());
    log::info!("steer {version} starts with {file} for {place}: {counts}");
    for change in &judged.changes {
        log::info!("{change}");
    }
    for warning in &judged.warnings {
        log::warn!("{warning}");
    }
    for lost in judged.destroys.iter().filter(|_| force) {
        log::warn!("--force: this start destroys {lost}");
    }
    Ok((judged, interfaces))
}

/// The interfaces of the configuration that are there; the others are waited for.
pub(super) async fn present(config: &Config) -> Result<Interfaces> {
    let mut there = config.attached();
    there.retain(|interface| plane::ifindex(&interface.name).is_some());
    let mut found = Interfaces::find(&there).await?;
    if found.targets.is_empty() {
        found.mtu = ETHERNET_MTU;
    }
    Ok(found)
}

fn put_back(config: &Config, dir: &PinDir, mtu: u32) -> Result<()> {
    if let Some(before) = Before::kept(dir)? {
        log::warn!("a start before this one did not get through: what it changed is put back");
        Pools::open(Plane::open(dir)?, config, mtu)?.restore(&before)?;
    }
    Before::forget(dir)
}

/// Loads, tries, writes and switches; undoes what it did where that fails.
pub(super) async fn bring_up(
    config: &Config,
    dir: &PinDir,
    old: Option<&Old>,
    judged: &Judged,
    interfaces: &Interfaces,
) -> Result<Up> {
    if !judged.fresh {
        // What is too old shall not take the place of anything in tables that get smaller.
        sweep(&mut Plane::open(dir)?)?;
    }
    let mut programs = Programs::load_beside(dir, &config.sizes, old.map(Old::dir))?;
    match prepare(config, dir, old, judged, interfaces, &mut programs) {
        Ok(Prepared { pools, reserved, since }) => {
            let up = Up { dir: dir.clone(), pools, programs, attached: Vec::new() };
            switch(config, old, since, interfaces, up, reserved).await
        }
        Err(error) => {
            programs.abandon(dir)?;
            Err(error)
        }
    }
}

/// What a switch needs.
struct Prepared {
    pools: Pools,
    reserved: plane::Reserved,
    /// When the tables of an older layout were copied last, seconds of CLOCK_MONOTONIC.
    since: Option<u32>,
}

/// Everything before the first program is replaced.
fn prepare(
    config: &Config,
    dir: &PinDir,
    old: Option<&Old>,
    judged: &Judged,
    interfaces: &Interfaces,
    programs: &mut Programs,
) -> Result<Prepared> {
    if let Some(old) = old.filter(|_| judged.fresh) {
        old.fill(dir)?;
        reached(Step::LayoutFilled);
        // The bulk of the entries, so that little is left to do when nothing may come between.
        old.mirror(dir)?;
        sweep(&mut Plane::open(dir)?)?;
        reached(Step::LayoutCopied);
    }
    let reserved = programs.reserve(dir, &interfaces.targets)?;
    reached(Step::LinksReserved);
    let since = match old {
        Some(old) if judged.fresh => {
            let since = clock::seconds();
            tell_left(old.mirror(dir)?);
            Some(since)
        }
        // An upgrade that was broken off: some programs may be new and write to the new tables.
        Some(old) => {
            tell_left(old.merge(dir, None)?);
            None
        }
        None => None,
    };
    let plane = Plane::open(dir)?;
    let before = Before::read(&plane)?;
    before.keep(dir)?;
    reached(Step::UndoKept);
    let mut pools = Pools::open(plane, config, interfaces.mtu)?;
    // No start over these maps got through: what is known from before is there before the first packet
    // is seen.
    let file = config.state_file.as_ref().filter(|_| before.configured.is_empty());
    let written = write(config, dir, judged, &mut pools)
        .map(|()| file.map_or((), |file| state::restore(file, &mut pools)))
        .and_then(|()| pools.plane_mut().set_switch(SWITCH_RESIZING, programs.copies()))
        .and_then(|()| programs.prepare_switch(dir));
    if let Err(error) = written {
        pools.restore(&before).context("undo a start that failed")?;
        Before::forget(dir)?;
        return Err(error);
    }
    Ok(Prepared { pools, reserved, since })
}

fn tell_left(left: u64) {
    if left > 0 {
        log::warn!("{left} entries of the older layout did not fit the tables' sizes");
    }
}

fn write(config: &Config, dir: &PinDir, judged: &Judged, pools: &mut Pools) -> Result<()> {
    pools.adopt(&judged.numbers)?;
    reached(Step::PoolsWritten);
    let mut settings = pools.plane().settings()?;
    if settings.secret == 0 {
        settings.secret = getrandom::u64().context("get random bytes")?.max(1);
        settings.takeover_until = takeover_until(config);
        pools.plane_mut().set_settings(&settings)?;
    }
    let interfaces = config.attached();
    let names = interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>();
    dir.set_managed(&names)?;
    dir.set_bridges(&config.bridges)?;
    dir.set_place(&config.socket)?;
    reached(Step::SettingsWritten);
    Ok(())
}

/// Until when flows of another gateway are taken over, from a fresh start on.
fn takeover_until(config: &Config) -> u32 {
    let seconds = |limit: Duration| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    config.takeover.map_or(0, |limit| clock::seconds().saturating_add(seconds(limit)))
}

/// From the first program that is replaced on: an interface that cannot be served now is looked
/// after later.
async fn switch(
    config: &Config,
    old: Option<&Old>,
    since: Option<u32>,
    interfaces: &Interfaces,
    mut up: Up,
    reserved: plane::Reserved,
) -> Result<Up> {
    up.dir = up.dir.take_place()?;
    let dir = &up.dir;
    if let Some(old) = old {
        reached(Step::PlaceTaken);
        old.hand_over(dir)?;
        reached(Step::LinksHandedOver);
    }
    let copies = up.programs.copies();
    if copies {
        // From the first program on, until what the old ones wrote is there.
        up.pools.plane_mut().set_filling(clock::seconds().saturating_add(FILLING))?;
    }
    up.attached = up.programs.switch(dir, reserved, &interfaces.targets);
    let wanted = config.attached();
    logged(plane::detach_unasked(dir, &asked(&wanted, &interfaces.targets, &up.attached)));
    reached(Step::UnaskedDetached);
    if up.programs.finish_resize(dir)? {
        *up.pools.plane_mut() = Plane::open(dir)?;
    }
    if let Some(old) = old {
        tell_left(old.merge(dir, since)?);
        reached(Step::LayoutMerged);
        old.remove()?;
        up.programs.forget_before();
        log::info!("the state of layout v{} is carried over", old.dir().layout());
        reached(Step::LayoutRemoved);
    }
    if copies {
        up.pools.plane_mut().set_filling(0)?;
    }
    let filled = logged(interfaces::fill_interfaces(up.pools.plane_mut(), &config.bridges).await);
    set_xdp(&mut up.pools, filled && up.attached.iter().any(|attachment| attachment.xdp))?;
    let vips = up.pools.plane().vips()?;
    let vips = vips.iter().filter_map(|(key, _)| Service::of(key).address());
    let sharing = up.pools.plane().entrances()?;
    let vips = vips.chain(sharing.iter().map(|(_, entrance)| socket(&entrance.endpoint)));
    logged(addresses::withdraw(config, vips.map(|address| address.ip())).await);
    reached(Step::VipsWithdrawn);
    up.pools.remove_vips()?;
    Before::forget(&up.dir)?;
    reached(Step::UndoForgotten);
    for Attachment { interface, tc, xdp } in &up.attached {
        match (tc, xdp) {
            (true, true) => log::info!("{interface}: XDP and TC"),
            (true, false) => log::info!("{interface}: TC"),
            (false, _) => log::error!("{interface}: nothing is attached"),
        }
    }
    logged(addresses::assign(config).await);
    reached(Step::VipsAssigned);
    Ok(up)
}

/// Whether it went well; what did not is said, and tried again later.
fn logged(done: Result<()>) -> bool {
    done.inspect_err(|error| log::error!("{error:#}")).is_ok()
}

/// Every interface of the configuration, and whether XDP is asked for there. An interface that is
/// away keeps what it has.
fn asked<'a>(
    interfaces: &'a [Interface],
    targets: &[Target],
    attached: &[Attachment],
) -> Vec<(&'a str, bool)> {
    let wants_xdp = |name: &str| match targets.iter().find(|target| target.interface == name) {
        Some(target) => {
            target.xdp != Xdp::Never
                && attached.iter().any(|attachment| attachment.interface == name && attachment.xdp)
        }
        None => true,
    };
    interfaces
        .iter()
        .map(|interface| (interface.name.as_str(), wants_xdp(&interface.name)))
        .collect()
}

/// Tells the XDP programs whether they forward; not while they rest.
pub(super) fn set_xdp(pools: &mut Pools, xdp: bool) -> Result<()> {
    let xdp = xdp && !interfaces::xdp_rests();
    let settings = pools.plane().settings()?;
    if settings.xdp == u32::from(xdp) {
        return Ok(());
    }
    pools
        .plane_mut()
        .set_settings(&steer_common::shared::Settings { xdp: u32::from(xdp), ..settings })
}
