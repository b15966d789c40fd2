//! XDP on a link whose sender leaves its checksums unfinished, as a local virtual link does.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    case::{Case, OWNER},
    payload,
    setting::Setting,
    topology::{Family, Offloads},
};

#[test]
fn xdp_hands_unfinished_checksums_to_tc_and_everything_works_ipv4() -> Result<()> {
    hands_over(Family::V4)
}

#[test]
fn xdp_hands_unfinished_checksums_to_tc_and_everything_works_ipv6() -> Result<()> {
    hands_over(Family::V6)
}

#[test]
fn xdp_carries_the_bulk_of_a_spliced_flow_itself_where_checksums_are_finished() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let run = Setting { hook: Hook::Xdp, family, offloads: Offloads::ChecksumsOff }
            .scenario()
            .start()?;
        let case = Case::start(&run)?;
        assert!(case.upload(&case.dial, &payload::bytes(5_000_000, 1))?.resumed);
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        let (carried, spliced) =
            (case.counted(Counter::XdpForwarded)?, case.counted(Counter::Spliced)?);
        assert!(carried > 1000 && carried * 100 > spliced * 95, "{carried} of {spliced}");
        case.unharmed(1)?;
    }
    Ok(())
}

fn hands_over(family: Family) -> Result<()> {
    let run =
        Setting { hook: Hook::Xdp, family, offloads: Offloads::OnWithGro }.scenario().start()?;
    let case = Case::start(&run)?;
    case.moves(&case.dial)?;
    assert!(case.upload(&case.dial, &payload::bytes(5_000_000, 1))?.resumed);
    assert_eq!(run.servers[OWNER].uploaded("up")?, payload::sha256(&payload::bytes(5_000_000, 1)));
    case.expect(&[(Counter::SpliceOpened, 2), (Counter::BadChecksum, 0)])?;
    assert!(case.counted(Counter::XdpUnfinishedChecksum)? > 20);
    case.unharmed(2)
}
