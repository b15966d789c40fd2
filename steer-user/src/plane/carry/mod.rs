//! A state of an older layout becomes one of today's, under load.
//!
//! The layouts of the last two versions are carried over ([`Old::find`]); others are refused. Each
//! is a module of its own: its types as they were, and pure functions that say what a value means
//! in a later layout. What is done with any of them stands in [`layout`].
//!
//! The new state is made beside the old one, which nobody else touches, and filled from it
//! ([`Old::fill`], [`Old::mirror`]). When it is whole it gets its name; the links of the old state
//! are handed over to it ([`Old::hand_over`]), the programs behind them replaced, and what the old
//! ones wrote in between is brought over ([`Old::merge`]). Then the old state goes. An agent that
//! dies before the new state has its name leaves the old one as it was; one that dies later leaves
//! both, and the next one goes on from there.

mod layout;
mod v3;
mod v4;

use std::{collections::HashSet, path::Path};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::MapInfo;
use steer_common::{
    flow::{State, StateWord},
    maps::Size,
    shared::{
        FLOW_MADE, Flow, FlowKey, Foreign, FragmentKey, HeldKey, KeyName, LAYOUT_VERSION,
        LOOKUP_ENTRIES, Leg, Refusals, SWITCH_FOREIGN, SWITCH_LEGS, Session, SessionKey, Settings,
        Source, SourceKey, TraceLine,
    },
    trace,
};

use self::layout::{Carrier, Copied, n_keys, slots_or_none, walk};
use super::{
    Before, PinDir, Plane, Room, Slots, Table,
    load::SWITCHING,
    resize::{Becomes, settle},
    undo::UNDO,
    wanted::wanted,
};
use crate::config::Sizes;

/// How many versions back a layout is carried over.
const CARRIED: u32 = 2;

/// Pins and markers that are handed over as they are.
const HANDED_OVER: [&str; 3] = ["link_", "clsact_", "qdisc_"];

/// Entries of a table of an older layout, and what becomes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotCarried {
    /// What they are, in words.
    pub(crate) what: &'static str,
    /// What follows from that.
    pub(crate) then: &'static str,
    /// How many.
    pub(crate) n: u64,
    /// Whether somebody loses something by it.
    pub(crate) destroys: bool,
}

/// The state of an older layout that is to be carried over.
pub(crate) struct Old {
    dir: PinDir,
    carrier: &'static dyn Carrier,
}

fn carrier(layout: u32) -> Option<&'static dyn Carrier> {
    match layout {
        _ if layout >= LAYOUT_VERSION || layout + CARRIED < LAYOUT_VERSION => None,
        3 => Some(&v3::V3),
        4 => Some(&v4::V4),
        _ => None,
    }
}

/// Why nothing can be done beside a state of another layout: the words of a command, and of an
/// agent that cannot carry it.
pub(super) fn refusal(other: &PinDir) -> anyhow::Error {
    let (at, layout) = (other.state(), other.layout());
    match carrier(layout) {
        Some(_) => anyhow!(
            "{} holds the state of an older version of steer (layout v{layout}; this one has v{LAYOUT_VERSION}): start this \
             version's agent, which carries it over, or go on with the older version's commands",
            at.display()
        ),
        None => anyhow!(
            "{} holds the state of another version of steer (this one has layout v{LAYOUT_VERSION}): run `steer detach` \
             first, which ends its flows, or use another pin_dir",
            at.display()
        ),
    }
}

impl Old {
    /// The state of another layout beside this one's, if there is any.
    ///
    /// # Errors
    /// When it cannot be carried over.
    pub(crate) fn find(own: &PinDir) -> Result<Option<Self>> {
        match &own.others()[..] {
            [] => Ok(None),
            [dir] => match carrier(dir.layout()) {
                Some(_) if [SWITCHING, UNDO].iter().any(|mark| dir.map(mark).exists()) => {
                    Err(anyhow!(
                        "{} holds what an agent of an older version of steer left half done: start that version once, which puts it \
                     right, and then this one",
                        dir.state().display()
                    ))
                }
                Some(carrier) => Ok(Some(Self { dir: dir.clone(), carrier })),
                None => Err(refusal(dir)),
            },
            // An upgrade that was broken off, and now another version.
            [dir, ..] => Err(anyhow!(
                "{} holds the states of several other versions of steer, {} among them: an upgrade did not get through; start the \
                 version that began it, or run `steer detach`, which ends the flows",
                own.root().display(),
                dir.state().display()
            )),
        }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &PinDir {
        &self.dir
    }

    /// Its pools, as today's.
    pub(crate) fn pools(&self) -> Result<Before> {
        self.carrier.pools(&self.dir)
    }

    pub(crate) fn sessions(&self, each: &mut dyn FnMut(SessionKey, Session)) -> Result<()> {
        self.carrier.sessions(&self.dir, each).map(drop)
    }

    pub(crate) fn key_names(&self, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<()> {
        self.carrier.key_names(&self.dir, each).map(drop)
    }

    pub(crate) fn sources(&self, each: &mut dyn FnMut(SourceKey, Source)) -> Result<()> {
        self.carrier.sources(&self.dir, each).map(drop)
    }

    /// The entries of `flows`, `splices` or `handshakes`.
    pub(crate) fn flows(&self, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<()> {
        self.carrier.flows(&self.dir, name, each).map(drop)
    }

    pub(crate) fn foreign(&self, each: &mut dyn FnMut(FlowKey, Foreign)) -> Result<()> {
        walk::<_, v4::Foreign, _>(&self.dir, "foreign", each).map(drop)
    }

    pub(crate) fn legs(&self, each: &mut dyn FnMut(FlowKey, Leg)) -> Result<()> {
        walk::<_, v4::Leg, _>(&self.dir, "legs", each).map(drop)
    }

    /// What cannot be carried over and is there. Walks the tables and changes nothing.
    pub(crate) fn not_carried(&self) -> Result<Vec<NotCarried>> {
        let (dir, carrier) = (&self.dir, self.carrier);
        let lost = |n, what, then| NotCarried { what, then, n, destroys: true };
        let forgotten = |n, what, then| NotCarried { what, then, n, destroys: false };
        let all = [
            lost(
                carrier.flows(dir, "splices", &mut |_, _| ())?,
                "re-homed flows",
                "their connections break",
            ),
            lost(
                carrier.flows(dir, "flows", &mut |_, _| ())?,
                "flows",
                "their connections may break",
            ),
            lost(
                carrier.sessions(dir, &mut |_, _| ())?,
                "sessions",
                "their clients make a full handshake next time",
            ),
            lost(carrier.key_names(dir, &mut |_, _| ())?, "key names", "they are learned anew"),
            forgotten(
                carrier.flows(dir, "handshakes", &mut |_, _| ())?,
                "notes of connections that dial a backend itself",
                "these pass without one",
            ),
            forgotten(
                n_keys::<SessionKey>(dir, "key_name_tries")?,
                "searches for the owner of a key name",
                "they begin anew, with a full handshake for each backend that is tried",
            ),
            forgotten(
                slots_or_none::<[u8; 256]>(dir, "rotations")?
                    .iter()
                    .filter(|line| line.iter().any(|b| *b != 0))
                    .count() as u64,
                "VIPs whose backends' order of key changes is known",
                "it is learned anew",
            ),
            forgotten(
                n_keys::<FragmentKey>(dir, "fragments")?
                    + n_keys::<HeldKey>(dir, "held_fragments")?,
                "notes and pieces of fragmented datagrams",
                "what is under way of them is repeated by its sender",
            ),
        ];
        Ok(all.into_iter().filter(|lost| lost.n > 0).collect())
    }

    /// Tables of the configuration that are to hold fewer entries than they do now.
    pub(crate) fn rooms(&self, sizes: &Sizes) -> Result<Vec<Room>> {
        let sizable = wanted(sizes)?.into_iter().filter(|map| map.size == Size::Sizable);
        let now = |name| MapInfo::from_pin(self.dir.map(name)).map(|info| info.max_entries());
        Ok(sizable
            .filter_map(|map| {
                Some(Room { name: map.name, now: now(map.name).ok()?, wanted: map.entries })
            })
            .collect())
    }

    /// Fills all that is no table of entries, in a state that is being made aside.
    pub(crate) fn fill(&self, to: &PinDir) -> Result<()> {
        to.adopt_made(&self.dir)?;
        let mut plane = Plane::open(to)?;
        let (mut settings, switches) = self.carrier.settings(&self.dir)?;
        // A first start would draw one, and take over the flows of another gateway if it is told
        // to.
        if settings.secret == 0 {
            settings.secret = getrandom::u64().context("get random bytes")?.max(1);
        }
        plane.set_settings(&Settings { xdp: 0, ..settings })?;
        for (index, on) in (0..).zip(switches) {
            plane.set_switch(index, on != 0)?;
        }
        let before = self.pools()?;
        for (id, backend) in &before.backends {
            plane.set_backend(*id, backend)?;
        }
        let numbers = before.backends.iter().map(|(id, _)| *id).collect::<HashSet<_>>();
        let paths = (0..).zip(self.carrier.backend_paths(&self.dir)?);
        for (id, path) in paths.filter(|(id, _)| numbers.contains(id)) {
            plane.set_backend_path(id, &path)?;
        }
        for (at, says) in &before.configured {
            plane.configured.insert(at, says)?;
        }
        let ids =
            before.backends.iter().map(|(id, backend)| (backend.endpoint, *id)).collect::<Vec<_>>();
        plane.set_endpoints(&before.vips, &ids)?;
        let lookup = slots_or_none::<u16>(&self.dir, "lookup")?;
        if lookup.len() == LOOKUP_ENTRIES as usize {
            plane.lookup.write(0, &lookup)?;
        }
        let old = slots_or_none::<v4::Refusals>(&self.dir, "refusals")?;
        plane
            .refusals
            .write(0, &old.iter().filter_map(Becomes::becomes).collect::<Vec<Refusals>>())?;
        for name in ["traces", "syn_traces"] {
            let old = slots_or_none::<v4::TraceLine>(&self.dir, name)?;
            let old = old.iter().filter_map(Becomes::becomes).collect::<Vec<TraceLine>>();
            Slots::<TraceLine>::open(to, name)?.write(0, &old)?;
        }
        if !self.dir.map("traces").exists() {
            self.trace(to, settings.secret)?;
        }
        self.carrier.count(&self.dir, &mut plane)
    }

    /// Leaves the traces that flows of an older layout did not leave.
    fn trace(&self, to: &PinDir, secret: u64) -> Result<()> {
        let mut lines = vec![TraceLine::default(); trace::LINES as usize];
        self.flows("flows", &mut |key, flow| {
            if StateWord(flow.word).state() == State::Spliced || flow.closing() {
                return;
            }
            let place = trace::place(&key, secret);
            if let Some(line) = lines.get_mut(place.line as usize) {
                trace::enter(line, place.fingerprint, flow.first, flow.seen);
            }
        })?;
        Slots::<TraceLine>::open(to, "traces")?.write(0, &lines)
    }

    /// Makes the tables of entries the same as the old ones, locks aside: in a state that no
    /// program uses. Returns how many entries did not fit.
    pub(crate) fn mirror(&self, to: &PinDir) -> Result<u64> {
        let left = self.each(|table, from, name| {
            (table.mirror)(from, &to.map(name))
                .with_context(|| format!("carry the map {name} over"))
        })?;
        tidy(to)?;
        Ok(left)
    }

    /// Hands links and markers over to a state that has its name.
    pub(crate) fn hand_over(&self, to: &PinDir) -> Result<()> {
        self.dir.hand_over(to, &HANDED_OVER)
    }

    /// Brings over what the old programs wrote since, as [`merge`](super::resize::merge) does.
    /// Returns how many entries did not fit.
    pub(crate) fn merge(&self, to: &PinDir, since: Option<u32>) -> Result<u64> {
        // Nobody looks into these tables before it is known that they may hold something.
        let (_, switches) = self.carrier.settings(&self.dir)?;
        let mut plane = Plane::open(to)?;
        for index in [SWITCH_FOREIGN, SWITCH_LEGS] {
            if switches.get(index as usize).is_some_and(|on| *on != 0) {
                plane.set_switch(index, true)?;
            }
        }
        let left = self.each(|table, from, name| {
            (table.merge)(from, &to.map(name), since)
                .with_context(|| format!("carry the map {name} over"))
        })?;
        settle(&to.map("splices"), &to.map("flows"))?;
        tidy(to)?;
        for name in ["traces", "syn_traces"] {
            let mut lines = Slots::<TraceLine>::open(to, name)?;
            let old = slots_or_none::<v4::TraceLine>(&self.dir, name)?;
            let both = (0..).zip(old.iter().filter_map(Becomes::becomes)).zip(lines.all()?);
            for ((index, old), new) in both {
                if let Some(line) = with_traces(&old, &new) {
                    lines.set(index, &line)?;
                }
            }
        }
        Ok(left)
    }

    fn each(&self, mut copy: impl FnMut(&Copied, &Path, &str) -> Result<u64>) -> Result<u64> {
        let tables =
            self.carrier.copied().into_iter().filter(|table| self.dir.map(table.name).exists());
        tables.map(|table| copy(&table, &self.dir.map(table.name), table.name)).sum()
    }

    /// Removes the old state: nothing of it is used any more.
    pub(crate) fn remove(&self) -> Result<()> {
        self.dir.remove_state()
    }
}

/// Removes what v3 kept longer than today's programs expect: the splices of flows that are over,
/// which would be taken for those of the next connection on the same ports, and handshakes of which
/// a flow was made, which would keep its ports from the next one for two seconds (today such a
/// handshake is marked).
fn tidy(to: &PinDir) -> Result<()> {
    let flows = Table::<FlowKey, Flow>::open(to, "flows")?;
    let isn = |flow: &Flow| StateWord(flow.word).isn();
    let is_over = |splice: &Flow, flow: &Flow| flow.closing() || isn(flow) != isn(splice);
    let mut splices = Table::<FlowKey, Flow>::open(to, "splices")?;
    splices.remove_stale(
        |key, splice| matches!(flows.find(key), Ok(Some(flow)) if is_over(splice, &flow)),
    )?;
    let mut handshakes = Table::<FlowKey, Flow>::open(to, "handshakes")?;
    let made = |key: &FlowKey, handshake: &Flow| {
        handshake.flags & FLOW_MADE == 0
            && matches!(flows.find(key), Ok(Some(flow)) if isn(&flow) == isn(handshake))
    };
    handshakes.remove_stale(made).map(drop)
}

/// A line with the traces of another one that it has not; `None` where it has all, or no room.
fn with_traces(old: &TraceLine, new: &TraceLine) -> Option<TraceLine> {
    let mut line = *new;
    for slot in old.slots.iter().filter(|slot| **slot != 0) {
        let is_there = line.slots.iter().any(|there| *there as u32 == *slot as u32);
        if let Some(free) = line.slots.iter_mut().find(|there| **there == 0).filter(|_| !is_there) {
            *free = *slot;
        }
    }
    (line != *new).then_some(line)
}

#[cfg(test)]
mod tests {
    use aya::Pod;

    use super::*;

    /// Bytes that all differ from their neighbours.
    pub(super) fn counting<const N: usize>() -> [u8; N] {
        std::array::from_fn(|index| (index * 7 + 1) as u8)
    }

    /// The value that these bytes are.
    pub(super) fn value<T: Pod>(image: &[u8]) -> T {
        assert_eq!(image.len(), size_of::<T>());
        // SAFETY: as many bytes as the type has, and every pattern is one of its values.
        unsafe { image.as_ptr().cast::<T>().read_unaligned() }
    }

    /// The number at a place.
    pub(super) fn at<T: Number>(image: &[u8], place: usize) -> T {
        T::read(&image[place..])
    }

    pub(super) trait Number {
        fn read(bytes: &[u8]) -> Self;
    }

    macro_rules! numbers {
        ($($number:ty)+) => { $(
            impl Number for $number {
                fn read(bytes: &[u8]) -> Self {
                    Self::from_ne_bytes(bytes[..size_of::<Self>()].try_into().expect("so many bytes"))
                }
            }
        )+ };
    }
    numbers!(u16 u32 u64);

    #[test]
    fn the_layouts_of_the_last_two_versions_are_carried_and_no_others() {
        let known = 3..LAYOUT_VERSION;
        for layout in 0..LAYOUT_VERSION + 3 {
            let is_carried = known.contains(&layout) && layout + 2 >= LAYOUT_VERSION;
            assert_eq!(carrier(layout).is_some(), is_carried, "v{layout}");
        }
    }

    #[test]
    fn a_line_gets_the_traces_that_it_has_not_while_there_is_room() {
        let line = |slots: [u64; 8]| TraceLine { slots };
        let (old, new) = (line([1, 2, 0, 3, 0, 0, 0, 0]), line([0, 2 | 9 << 48, 0, 0, 0, 0, 0, 0]));
        assert_eq!(with_traces(&old, &new), Some(line([1, 2 | 9 << 48, 3, 0, 0, 0, 0, 0])));
        assert_eq!(with_traces(&new, &new), None);
        assert_eq!(with_traces(&old, &line([11, 12, 13, 14, 15, 16, 17, 18])), None, "it is full");
    }
}
