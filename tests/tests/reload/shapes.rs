//! Pools without a VIP, and transfers that are none of steer's business.

use anyhow::{Context as _, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Hook, Shape},
    case::Case,
    l4::Snat,
    setting::{Setting, in_settings},
    street::{CROWD, Street},
};

use crate::changes::under_load;

/// A change of the file, by its name.
type Change = (&'static str, fn(&str) -> String);

const CHANGES: [Change; 3] = [
    ("sizes", |file| {
        let sizes = "flows = 300000\nsplices = 70000\nlegs = 140000\n";
        format!("{file}\n[sizes]\n{sizes}")
    }),
    ("settings of sessions", |file| {
        file.replacen("[[pool.backend]]", "session_timeout = \"20m\"\n[[pool.backend]]", 1)
    }),
    ("who is exempt", |file| {
        file.replacen("[[pool.backend]]", "exempt = [\"192.0.2.7\"]\n[[pool.backend]]", 1)
    }),
];

/// A bridge is served by TC.
fn served(setting: Setting, shape: Shape) -> Setting {
    if shape == Shape::Bridge { Setting { hook: Hook::Tc, ..setting } } else { setting }
}

#[test]
fn moved_connections_of_pools_without_a_vip_go_on_through_reloads() -> Result<()> {
    in_settings(75, |setting| {
        for (shape, snat) in [(Shape::Inline, Snat::Yes), (Shape::Bridge, Snat::No)] {
            let scenario = served(setting, shape).scenario();
            let run = match shape {
                Shape::Bridge => scenario.bridge(snat),
                _ => scenario.inline(snat),
            };
            let run = run.start()?;
            let case = Case::start(&run)?;
            for (what, change) in CHANGES {
                let changed = under_load(&case, || case.steer.reload(change).map(drop));
                changed.with_context(|| format!("{what}; log: {}", case.steer.log()))?;
            }
            ensure!(case.steer.count(Counter::SpliceOpened)? > 0);
            case.unharmed_but_for_resets()?;
        }
        Ok(())
    })
}

/// Through the balancer, or to the VIP that the kernel's own rules served before: older than the
/// gateway and younger.
#[test]
fn transfers_that_are_not_moved_go_on_through_reloads() -> Result<()> {
    in_settings(76, |setting| {
        for shape in [Shape::Inline, Shape::Bridge] {
            let street = Street::build(served(setting, shape), shape, Snat::Yes)?;
            let older = street.talk(0)?;
            let steer = street.agent()?;
            older.goes_on();
            let younger = street.talk(CROWD)?;
            for (what, change) in CHANGES {
                steer.reload(change).context(what)?;
                older.goes_on();
                younger.goes_on();
            }
            let foreign = steer.count(Counter::ForeignPassed)?;
            ensure!(foreign > 0 && steer.count(Counter::SpliceOpened)? == 0);
            older.end()?;
            younger.end()?;
        }
        Ok(())
    })
}
