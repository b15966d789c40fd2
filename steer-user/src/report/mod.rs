//! What is reported, read from the pinned maps alone: the shapes behind `--json` (docs/cli.md), the
//! tables and the metrics.

mod backends;
mod flows;
mod keys;
mod sessions;
mod stats;
mod status;
mod watched;
mod why;
mod world;

pub use backends::{BackendReport, BackendState, Backends, Resumptions};
pub use flows::{Clients, Filter, FlowReport, Flows, Offered, Outcome, Reason, state_of_word};
pub use keys::{KeyNameReport, Keys, LayoutOrigin, LayoutReport, NameOrigin};
pub use sessions::{FoundSessions, Matcher, SessionReport, Sessions};
pub use stats::Stats;
pub use status::{
    AgentReport, BridgeReport, Health, HealthState, InterfaceReport, PortReport, Status,
    TableReport, VipReport,
};
pub use watched::{Decision, Watch, WatchFilter};
pub use why::{FlowStory, IdentifierStory, What, Why};

#[cfg(test)]
mod tests;
