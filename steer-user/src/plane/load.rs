//! Loads the programs over the pinned maps.
//!
//! aya takes a pin of another type or size as it is, so every pin is looked at first. A table whose
//! size changed is made anew beside the old one, gets its entries ([`resize`]), and takes its name
//! once the new programs run. Before the first of them does, the directory `switching` is made:
//! where it is not there, nobody uses a map that was made beside another, and the next agent drops
//! it; where it is, the next agent ends the swap.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapInfo, MapType},
    programs::{SchedClassifier, Xdp},
};
use steer_common::{
    maps::{CONFIGURED, Kind, Map, Size},
    shared::{Configured, Endpoint},
};

use super::{
    PinDir,
    attach::Kind as Hook,
    passed,
    pin::{NEXT, remove_empty},
    resize::{self, Copier},
    wanted::wanted,
};
use crate::{
    clock,
    config::Sizes,
    crash::{Step, reached},
};

/// The programs, compiled by the build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("STEER_BPF_OBJECT_PATH"));

/// Names an object to load instead of [`OBJECT`].
const OBJECT_VAR: &str = "STEER_BPF_OBJECT";

/// Names of the programs in the object.
const XDP: &str = "steer_xdp";
const TC: &str = "steer_tc";

/// Marks a pin directory whose programs are being replaced by ones with tables of other sizes.
pub(super) const SWITCHING: &str = "switching";

/// The loaded programs; attached by `attach`.
pub struct Programs {
    ebpf: Ebpf,
    resized: Vec<Map>,
    /// The state of an older layout whose links get these programs.
    before: Option<PinDir>,
    /// When the new tables were made the same as the old ones last, seconds of CLOCK_MONOTONIC.
    mirrored: Option<u32>,
}

impl Programs {
    /// Loads the programs, making or adopting the pinned maps. Where that fails, no map of a new
    /// size is left behind.
    pub fn load(dir: &PinDir, sizes: &Sizes) -> Result<Self> {
        Self::load_beside(dir, sizes, None)
    }

    /// As [`Programs::load`], where the state of an older layout is carried over.
    pub(crate) fn load_beside(
        dir: &PinDir,
        sizes: &Sizes,
        before: Option<&PinDir>,
    ) -> Result<Self> {
        let maps = wanted(sizes)?;
        let pins = maps.iter().map(|map| pin(dir, map)).collect::<Result<Vec<_>>>()?;
        unmark_switching(dir)?;
        let loaded = Self::load_with(dir, &maps, &pins);
        if loaded.is_err() {
            drop_resized(dir, &resized(&maps, &pins))?;
        }
        loaded.map(|programs| Self { before: before.cloned(), ..programs })
    }

    fn load_with(dir: &PinDir, maps: &[Map], pins: &[Pin]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (map, pin) in maps.iter().zip(pins) {
            loader.map_max_entries(map.name, map.entries).map_pin_path(map.name, pin.path());
        }
        // The cache wants loads not to pass loads (steer_common::fast).
        let usable =
            |map: &&Map| map.name == "fast" && map.entries > 1 && cfg!(target_arch = "x86_64");
        let fast = maps.iter().find(usable).map_or(0, |map| map.entries);
        loader.override_global("FAST_SLOTS", &fast, true);
        let mut ebpf =
            loader.load(&object()?).context("load the programs and maps into the kernel")?;
        reached(Step::MapsMade);
        let tc: &mut SchedClassifier = program(&mut ebpf, TC)?;
        tc.load().context("load the program steer_tc into the kernel")?;
        let xdp: &mut Xdp = program(&mut ebpf, XDP)?;
        xdp.load().context("load the program steer_xdp into the kernel")?;
        reached(Step::ProgramsLoaded);
        create_configured(dir)?;
        reached(Step::ConfiguredMade);
        let programs = Self { ebpf, resized: resized(maps, pins), before: None, mirrored: None };
        if !programs.resized.is_empty() {
            // The bulk of the entries, so that little is left to do in `prepare_switch`.
            programs.mirror(dir)?;
            reached(Step::SizesCopied);
        }
        Ok(programs)
    }

    /// Gives up what was loaded: maps of new sizes that no program uses go.
    pub fn abandon(self, dir: &PinDir) -> Result<()> {
        if dir.map(SWITCHING).exists() { Ok(()) } else { drop_resized(dir, &self.resized) }
    }

    /// Gets the tables of new sizes ready for the programs to use them: none may before.
    pub fn prepare_switch(&mut self, dir: &PinDir) -> Result<()> {
        if self.resized.is_empty() {
            return Ok(());
        }
        self.mirrored = Some(clock::seconds());
        let left = self.mirror(dir)?;
        if left > 0 {
            log::warn!("{left} entries did not fit the tables' new sizes");
        }
        dir.mark(SWITCHING)
    }

    /// Ends the change of sizes, once the new programs run: takes over what the old ones wrote
    /// meanwhile, and gives the new maps their names. `true` if there was any.
    pub fn finish_resize(&mut self, dir: &PinDir) -> Result<bool> {
        let any = !self.resized.is_empty();
        if any {
            // The old programs write nothing more.
            passed::packets_at_hand();
        }
        for map in &self.resized {
            merge_to_next(dir, map, self.mirrored)?;
        }
        if any {
            settle(dir)?;
        }
        for Map { name, .. } in self.resized.drain(..) {
            rename_next(dir, name)?;
            reached(Step::SizeRenamed);
            log::info!("map {name} has its new size");
        }
        unmark_switching(dir).map(|()| any)
    }

    /// Whether tables are copied from others that programs still write to: because they get another
    /// size, or because they come from another layout.
    pub(crate) fn copies(&self) -> bool {
        !self.resized.is_empty() || self.before.is_some()
    }

    /// Where the link of an interface is pinned, here or still in the state of an older layout.
    pub(super) fn link(&self, dir: &PinDir, interface: &str, kind: Hook) -> PathBuf {
        let own = dir.link(interface, kind);
        let before = self
            .before
            .as_ref()
            .filter(|_| !own.exists())
            .map(|before| before.link(interface, kind));
        before.unwrap_or(own)
    }

    /// The state of an older layout is gone.
    pub(crate) fn forget_before(&mut self) {
        self.before = None;
    }

    fn mirror(&self, dir: &PinDir) -> Result<u64> {
        self.resized.iter().map(|map| mirror_to_next(dir, map)).sum()
    }

    /// The TC program.
    pub(super) fn tc(&mut self) -> Result<&mut SchedClassifier> {
        program(&mut self.ebpf, TC)
    }

    /// The XDP program.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        program(&mut self.ebpf, XDP)
    }
}

/// The programs: those inside this binary, or those that the environment names (packagers, tests).
fn object() -> Result<Cow<'static, [u8]>> {
    let Some(named) = std::env::var_os(OBJECT_VAR) else { return Ok(Cow::Borrowed(OBJECT)) };
    let path = Path::new(&named);
    log::warn!("{OBJECT_VAR} names the programs to load: {}", path.display());
    let bytes = fs::read(path)
        .with_context(|| format!("read {}, which {OBJECT_VAR} names", path.display()))?;
    Ok(Cow::Owned(bytes))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program =
        ebpf.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("take the program {name}"))
}

/// Where a map is loaded from.
enum Pin {
    /// Its pin, there or to be made.
    Own(PathBuf),
    /// A map of the new size beside its pin.
    Next(PathBuf),
}

impl Pin {
    fn path(&self) -> &Path {
        match self {
            Pin::Own(path) | Pin::Next(path) => path,
        }
    }
}

/// Looks at a map's pin and decides what to load.
fn pin(dir: &PinDir, map: &Map) -> Result<Pin> {
    let (own, next) = (dir.map(map.name), next(dir, map.name));
    if next.exists() && dir.map(SWITCHING).exists() {
        merge_to_next(dir, map, None)?;
        rename_next(dir, map.name)?;
    } else if next.exists() {
        fs::remove_file(&next).with_context(|| format!("remove {}", next.display()))?;
    }
    if !own.exists() {
        return Ok(Pin::Own(own));
    }
    let found = info(&own)?;
    refuse_other_kind(map, &found, &own)?;
    // With other CPUs online than at its making, a map has another size than today's: it stays as
    // it is.
    let by_cpus = map.kind == Kind::LruHash && map.size == Size::Fixed;
    if found.max_entries() == map.entries || by_cpus {
        return Ok(Pin::Own(own));
    }
    if map.size == Size::Fixed {
        bail!(
            "{} has {} entries and this version of steer wants {}: run `steer detach` first, which ends its flows",
            own.display(),
            found.max_entries(),
            map.entries
        );
    }
    log::info!("map {}: {} entries become {}", map.name, found.max_entries(), map.entries);
    Ok(Pin::Next(next))
}

fn refuse_other_kind(map: &Map, found: &MapInfo, pin: &Path) -> Result<()> {
    let same = found.map_type().is_ok_and(|kind| kind as u32 == map.kind as u32)
        && (found.key_size(), found.value_size()) == (map.key.size, map.value.size);
    if same {
        return Ok(());
    }
    bail!(
        "{} is no map of this version of steer (found {:?}, key {} bytes, value {} bytes; expected {:?}, {} and {}): \
         run `steer detach` first, or use another pin_dir",
        pin.display(),
        found.map_type().unwrap_or(MapType::Unspecified),
        found.key_size(),
        found.value_size(),
        map.kind,
        map.key.size,
        map.value.size
    )
}

/// The tables that get another size.
fn resized(maps: &[Map], pins: &[Pin]) -> Vec<Map> {
    let resized = maps.iter().zip(pins).filter(|(_, pin)| matches!(pin, Pin::Next(_)));
    resized.map(|(map, _)| *map).collect()
}

fn drop_resized(dir: &PinDir, resized: &[Map]) -> Result<()> {
    resized.iter().map(|map| next(dir, map.name)).filter(|path| path.exists()).try_for_each(
        |path| fs::remove_file(&path).with_context(|| format!("remove {}", path.display())),
    )
}

fn unmark_switching(dir: &PinDir) -> Result<()> {
    remove_empty(&dir.map(SWITCHING))
}

/// Makes the new map of a table the same as the old one; returns how many entries did not fit.
fn mirror_to_next(dir: &PinDir, map: &Map) -> Result<u64> {
    let Some(copier) = Copier::of(map) else { return Ok(0) };
    let mirrored = (copier.mirror)(&dir.map(map.name), &next(dir, map.name));
    mirrored.with_context(|| format!("copy the map {} to its new size", map.name))
}

/// Brings over what was written to the old map of a table since.
fn merge_to_next(dir: &PinDir, map: &Map, since: Option<u32>) -> Result<()> {
    let name = map.name;
    let (from, to) = (dir.map(name), next(dir, name));
    let Some(copier) = Copier::of(map).filter(|_| from.exists()) else { return Ok(()) };
    let left = (copier.merge)(&from, &to, since)
        .with_context(|| format!("copy the map {name} to its new size"))?;
    if left > 0 {
        log::warn!("map {name}: {left} entries did not fit its new size");
    }
    Ok(())
}

/// What `splices` says is re-homed is so in `flows`, whichever of them has another size now.
fn settle(dir: &PinDir) -> Result<()> {
    let now =
        |name| Some(next(dir, name)).filter(|path| path.exists()).unwrap_or_else(|| dir.map(name));
    resize::settle(&now("splices"), &now("flows"))
}

fn rename_next(dir: &PinDir, name: &str) -> Result<()> {
    fs::rename(next(dir, name), dir.map(name)).with_context(|| format!("rename the new map {name}"))
}

fn next(dir: &PinDir, name: &str) -> PathBuf {
    dir.map(&format!("{name}{NEXT}"))
}

fn info(pin: &Path) -> Result<MapInfo> {
    MapInfo::from_pin(pin).with_context(|| format!("look at the pinned map {}", pin.display()))
}

/// Makes the agent's own map beside those of the programs.
fn create_configured(dir: &PinDir) -> Result<()> {
    let pin = dir.map(CONFIGURED.name);
    if pin.exists() {
        return Ok(());
    }
    let map: HashMap<MapData, Endpoint, Configured> =
        HashMap::create(CONFIGURED.entries, 0).context("create the map configured")?;
    map.pin(&pin).with_context(|| format!("pin {}", pin.display()))
}
