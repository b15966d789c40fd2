//! The one list of maps: what each is, how many entries it has and who writes it. To add a map, add
//! a line here, its static in `steer-ebpf/src/maps.rs` and its row in docs/maps.md; tests hold the
//! three equal.

use crate::{
    counters::Counter,
    directory, fast,
    shared::{
        Answers, Backend, BackendPath, BackendStats, BridgePath, Configured, Endpoint,
        EndpointEntry, Entrance, ExemptKey, FastSlot, Flow, FlowKey, Foreign, FragmentKey,
        FragmentRoute, Held, HeldKey, HopSlot, KeyName, LOOKUP_ENTRIES, Leg, MAX_BACKENDS,
        MAX_BRIDGES, MAX_ENTRANCES, MAX_EXEMPT, MAX_INTERFACES, MAX_VIPS, Pending, Refusals, Rest,
        Rotation, SWITCHES, Session, SessionKey, Settings, Source, SourceKey, TraceLine,
        VLAN_WORDS, Vip,
    },
    trace,
};

/// A pinned map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Map {
    /// Its name, in the programs' object and in the pin directory.
    pub name: &'static str,
    /// How the kernel keeps it.
    pub kind: Kind,
    /// Its keys; of an array the index.
    pub key: Type,
    /// Its values.
    pub value: Type,
    /// How many entries it has unless the configuration says otherwise; of a ring its bytes.
    pub entries: u32,
    /// Whether that may change.
    pub size: Size,
    /// Who writes it.
    pub writer: Writer,
}

/// The kind of a map, numbered as in the kernel (`enum bpf_map_type` in linux/bpf.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A hash table that refuses entries when it is full.
    Hash = 1,
    /// An array.
    Array = 2,
    /// An array of which each CPU has its own.
    PerCpuArray = 6,
    /// A hash table that forgets the least recently used entry when it is full.
    LruHash = 9,
    /// A table of prefixes, of which the longest that fits is found.
    LpmTrie = 11,
    /// A ring of records.
    RingBuf = 27,
}

/// The type of a map's keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Type {
    /// Its name; `()` where the map has none.
    pub name: &'static str,
    /// Its size, bytes.
    pub size: u32,
}

/// Whether a map may have another size at the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// No. (A hash table of the LRU kind gets more entries where the kernel wants that for its
    /// CPUs.)
    Fixed,
    /// `[sizes]` of the configuration says it; entries are copied to the new size (but those of
    /// `fast`, a cache).
    Sizable,
    /// Another version of steer may have another one; the map starts at zero then.
    Versioned,
}

/// Who writes a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// The kernel programs.
    Programs,
    /// The agent, or the command line in its place.
    Agent,
    /// All of them.
    Both,
}

/// Makes maps of `"name" Kind<Key, Value> entries, Size, Writer;` each.
macro_rules! maps {
    ($($name:literal $kind:ident<$key:ty, $value:ty> $entries:expr, $size:ident, $writer:ident;)+) => {
        [$(Map {
            name: $name,
            kind: Kind::$kind,
            key: Type { name: stringify!($key), size: size_of::<$key>() as u32 },
            value: Type { name: stringify!($value), size: size_of::<$value>() as u32 },
            entries: $entries,
            size: Size::$size,
            writer: Writer::$writer,
        }),+]
    };
}

/// Every map that the programs share with user space.
pub const MAPS: &[Map] = &maps! {
    "sessions"       LruHash<SessionKey, Session>         262_144,               Sizable,   Both;
    // A handful a backend, unless its tickets have none and each looks like another.
    "key_names"      LruHash<SessionKey, KeyName>         16_384,                Fixed,     Both;
    "key_name_tries" LruHash<SessionKey, KeyName>         1024,                  Fixed,     Both;
    "refusals"       Array<u32, Refusals>                 MAX_BACKENDS,          Fixed,     Both;
    "rests"          Array<u32, Rest>                     MAX_BACKENDS,          Fixed,     Both;
    "rotations"      Array<u32, Rotation>                 MAX_VIPS,              Fixed,     Both;
    "sources"        LruHash<SourceKey, Source>           16_384,                Fixed,     Both;
    "flows"          LruHash<FlowKey, Flow>               262_144,               Sizable,   Both;
    "fast"           Array<u32, FastSlot>                 262_144,               Sizable,   Programs;
    "hops"           Array<u32, HopSlot>                  fast::HOPS,            Fixed,     Programs;
    "splices"        Hash<FlowKey, Flow>                  65_536,                Sizable,   Both;
    "handshakes"     LruHash<FlowKey, Flow>               65_536,                Sizable,   Both;
    "pending"        LruHash<FlowKey, Pending>            1024,                  Sizable,   Programs;
    "fragments"      LruHash<FragmentKey, FragmentRoute>  1024,                  Fixed,     Programs;
    "held_fragments" LruHash<HeldKey, Held>               512,                   Fixed,     Programs;
    "foreign"        LruHash<FlowKey, Foreign>            65_536,                Fixed,     Both;
    // Two entries a connection at most.
    "legs"           Hash<FlowKey, Leg>                   131_072,               Sizable,   Both;
    "traces"         Array<u32, TraceLine>                trace::LINES,          Fixed,     Programs;
    "syn_traces"     Array<u32, TraceLine>                trace::SYN_LINES,      Fixed,     Programs;
    "backends"       Array<u32, Backend>                  MAX_BACKENDS,          Fixed,     Agent;
    "backend_paths"  Array<u32, BackendPath>              MAX_BACKENDS,          Fixed,     Both;
    "bridge_paths"   Array<u32, BridgePath>               MAX_BACKENDS,          Fixed,     Both;
    "backend_ids"    Hash<Endpoint, u32>                  MAX_BACKENDS,          Fixed,     Agent;
    "directory"      Array<u32, EndpointEntry>            directory::ENTRIES,    Fixed,     Agent;
    "vips"           Hash<Endpoint, Vip>                  MAX_VIPS,              Fixed,     Agent;
    "entrances"      Array<u32, Entrance>                 MAX_ENTRANCES,         Fixed,     Agent;
    "exempt"         LpmTrie<ExemptKey, u32>              MAX_EXEMPT,            Fixed,     Agent;
    "lookup"         Array<u32, u16>                      LOOKUP_ENTRIES,        Fixed,     Agent;
    "settings"       Array<u32, Settings>                 1,                     Fixed,     Agent;
    "switches"       Array<u32, u32>                      SWITCHES,              Fixed,     Both;
    "interfaces"     Hash<u32, u32>                       MAX_INTERFACES,        Fixed,     Agent;
    "vlans"          Array<u32, u32>                      MAX_BRIDGES * VLAN_WORDS, Fixed,  Agent;
    "counters"       PerCpuArray<u32, u64>                Counter::COUNT as u32, Versioned, Programs;
    "backend_stats"  PerCpuArray<u32, BackendStats>       MAX_BACKENDS,          Fixed,     Both;
    "answers"        PerCpuArray<u32, Answers>            MAX_BACKENDS,          Fixed,     Both;
    "events"         RingBuf<(), ()>                      262_144,               Fixed,     Programs;
    "watch"          Array<u32, u32>                      1,                     Fixed,     Agent;
    "watched"        RingBuf<(), ()>                      1_048_576,             Fixed,     Programs;
    "journaling"     Array<u32, u32>                      1,                     Fixed,     Agent;
    "journal"        RingBuf<(), ()>                      1_048_576,             Fixed,     Programs;
};

/// The kernel's flag of an array that user space may map, whose first entry starts a page
/// (`BPF_F_MMAPABLE` in linux/bpf.h).
pub const MMAPABLE: u32 = 0x400;
/// The kernel's flag of a map whose entries are made as they come, which it wants of tables of
/// prefixes (`BPF_F_NO_PREALLOC` in linux/bpf.h).
pub const NO_PREALLOC: u32 = 1;

impl Map {
    /// The kernel's flags of the map: [`MMAPABLE`] where an entry is to be a line of memory,
    /// [`NO_PREALLOC`] where the kernel wants it.
    pub fn flags(&self) -> u32 {
        match self.kind {
            Kind::LpmTrie => NO_PREALLOC,
            Kind::Array if self.name == "fast" => MMAPABLE,
            _ => 0,
        }
    }
}

/// The agent's own map, which no program knows: what the configuration said last.
pub const CONFIGURED: Map = {
    let [map] = maps! { "configured" Hash<Endpoint, Configured> MAX_BACKENDS, Fixed, Agent; };
    map
};

/// Maps that are not pinned: the programs' working memory, whose types nobody else knows.
pub const UNPINNED: [&str; 2] = ["scratch", "spare"];

/// How many entries a map of the list has by default. For constants: a name that is not in the list
/// does not compile there.
pub const fn entries(name: &str) -> u32 {
    let mut rest = MAPS;
    while let [map, others @ ..] = rest {
        if is_same(map.name.as_bytes(), name.as_bytes()) {
            return map.entries;
        }
        rest = others;
    }
    panic!("the list has no such map")
}

/// `==` for constants.
const fn is_same(mut a: &[u8], mut b: &[u8]) -> bool {
    while let ([first, a_rest @ ..], [second, b_rest @ ..]) = (a, b) {
        if *first != *second {
            return false;
        }
        (a, b) = (a_rest, b_rest);
    }
    a.is_empty() && b.is_empty()
}
