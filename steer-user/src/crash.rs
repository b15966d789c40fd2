//! The steps of an agent's start-up, and how a test has it die at one of them:
//! `STEER_CRASH_AT=STEP` in its environment. Release builds do not look.

/// Names the step to die at.
pub const VARIABLE: &str = "STEER_CRASH_AT";

/// Declares [`Step`] with its words, in the order of a start-up.
macro_rules! steps {
    ($( #[doc = $doc:literal] $variant:ident = $word:literal on $starts:ident, )+) => {
        /// What an agent that starts up has just done.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Step { $( #[doc = $doc] $variant, )+ }

        impl Step {
            /// Every step, in order.
            pub const ALL: &'static [Step] = &[$(Step::$variant),+];

            /// The word that [`VARIABLE`] holds.
            pub const fn word(self) -> &'static str {
                match self { $(Step::$variant => $word,)+ }
            }

            /// The start-ups that come by.
            pub const fn starts(self) -> Starts {
                match self { $(Step::$variant => Starts::$starts,)+ }
            }
        }
    };
}

/// Which start-ups come by a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Starts {
    /// Every one.
    Every,
    /// Only one that finds nothing pinned.
    First,
    /// Only one that finds tables of other sizes pinned.
    Resizing,
    /// Only one that finds the state of an older layout.
    Carrying,
}

steps! {
    /// The pin directory is there.
    Directory = "directory" on Every,
    /// It is this agent's.
    Locked = "locked" on Every,
    /// It is judged what the start would do.
    Judged = "judged" on Every,
    /// The control socket is open.
    SocketBound = "socket-bound" on Every,
    /// The maps are made and pinned, or those of an agent before are opened.
    MapsMade = "maps-made" on Every,
    /// The programs are in the kernel, attached to nothing.
    ProgramsLoaded = "programs-loaded" on Every,
    /// The agent's own map is made and pinned.
    ConfiguredMade = "configured-made" on Every,
    /// Tables of new sizes hold what those before them do.
    SizesCopied = "sizes-copied" on Resizing,
    /// What is no table of entries is carried over from an older layout.
    LayoutFilled = "layout-filled" on Carrying,
    /// The tables of an older layout are copied, and its programs run.
    LayoutCopied = "layout-copied" on Carrying,
    /// A program is attached by a link that is not pinned yet, if one was missing.
    LinkMade = "link-made" on Every,
    /// All links that were missing are made, and none is pinned.
    LinksReserved = "links-reserved" on Every,
    /// What was there is kept.
    UndoKept = "undo-kept" on Every,
    /// The backends of the first pool stand in their map, no lookup table names them.
    BackendsWritten = "backends-written" on Every,
    /// The pools are written.
    PoolsWritten = "pools-written" on Every,
    /// The programs are told what they need to know.
    SettingsWritten = "settings-written" on Every,
    /// The state that was made beside that of an older layout has its name.
    PlaceTaken = "place-taken" on Carrying,
    /// It has the links of the old one, with the old programs.
    LinksHandedOver = "links-handed-over" on Carrying,
    /// One interface has its TC program.
    FirstAttached = "first-attached" on Every,
    /// All interfaces have their TC programs.
    TcAttached = "tc-attached" on Every,
    /// All interfaces have their XDP programs.
    XdpAttached = "xdp-attached" on Every,
    /// No other interface has programs.
    UnaskedDetached = "unasked-detached" on Every,
    /// One table of a new size has its name.
    SizeRenamed = "size-renamed" on Resizing,
    /// What the programs of an older layout wrote last is brought over.
    LayoutMerged = "layout-merged" on Carrying,
    /// The state of an older layout is gone.
    LayoutRemoved = "layout-removed" on Carrying,
    /// VIPs that are not to be assigned any more are off their interfaces.
    VipsWithdrawn = "vips-withdrawn" on Every,
    /// What was there is forgotten: the start cannot be undone any more.
    UndoForgotten = "undo-forgotten" on Every,
    /// VIPs that are to be assigned are on their interfaces.
    VipsAssigned = "vips-assigned" on Every,
    /// The agent's tasks are started.
    Serving = "serving" on Every,
}

/// Notes that a step is done; a debug build dies here, as by `kill -9`, if it shall.
#[inline]
pub(crate) fn reached(step: Step) {
    if cfg!(debug_assertions) && std::env::var(VARIABLE).is_ok_and(|word| word == step.word()) {
        log::warn!("{VARIABLE}: the agent dies at the step {}", step.word());
        // SAFETY: a signal to this very process, which ends it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
