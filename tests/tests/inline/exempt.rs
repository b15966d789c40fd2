//! The balancer's own connections, its monitors', are none of steer's.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    l4::Snat,
    setting::in_settings,
};

/// Case 8: a monitor that offers its session wherever it looks is never moved, and its sessions are
/// not learned.
#[test]
fn a_monitor_that_offers_a_session_elsewhere_is_not_moved_and_not_learned_from() -> Result<()> {
    in_settings(310, |setting| {
        let mut scenario = setting.scenario().inline(Snat::No);
        scenario.steer.exempt = ["10.3.0.2", "fd00:3::/64"].map(str::to_owned).into();
        let run = scenario.start()?;
        let case = Case::start(&run)?;
        let balancer = run.lab.balancer().expect("a balancer");
        let source = if setting.family == steer_tests::topology::Family::V4 {
            "10.3.0.2".parse()?
        } else {
            "fd00:3::2".parse()?
        };
        let look = |backend: usize| {
            let dial = Dial::new(source, run.backend_address(backend));
            balancer.run(|| case.client.visit(&dial))
        };
        // A session that a client of the pool got.
        let seen = look(FIRST)?;
        assert!(seen.offered && !seen.resumed, "{seen:?}");
        assert_eq!(run.backend_named(&seen.server)?, FIRST);
        // One that the monitor got, offered by a client of the pool.
        case.client.forget();
        look(OWNER)?;
        let seen = run.visit(&case.client, &case.dial)?;
        assert!(seen.offered && !seen.resumed, "{seen:?}");
        case.expect(&[(Counter::Exempt, 2), (Counter::Rehome, 0), (Counter::Learned, 1)])
    })
}
