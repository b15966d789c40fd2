//! What is reported, read from the pinned maps alone: the shapes behind `--json` (docs/cli.md), the
//! tables and the metrics.

mod backends;
mod keys;
mod sessions;
mod stats;
mod status;

pub use backends::{BackendReport, BackendState, Backends, Resumptions};
pub use keys::{KeyNameReport, Keys, LayoutOrigin, LayoutReport, NameOrigin};
pub use sessions::{FoundSessions, Matcher, SessionReport, Sessions};
pub use stats::Stats;
pub use status::{
    AgentReport, BridgeReport, Health, HealthState, InterfaceReport, PortReport, Status,
    TableReport, VipReport,
};

#[cfg(test)]
mod tests;
