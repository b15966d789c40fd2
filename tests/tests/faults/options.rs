//! TCP options: what client, first backend and owner do not have in common.

use std::time::Duration;

use anyhow::{Context, Result};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    netns::NetNs,
    payload,
    process::eventually,
    scenario::{Run, Scenario},
    setting::{Setting, in_settings},
};

use crate::owners::TIMER;

/// Sysctls that switch a TCP option off.
const SACK: (&str, &str) = ("ipv4/tcp_sack", "0");
const TIMESTAMPS: (&str, &str) = ("ipv4/tcp_timestamps", "0");
const WINDOW_SCALE: (&str, &str) = ("ipv4/tcp_window_scaling", "0");
const ECN: (&str, &str) = ("ipv4/tcp_ecn", "0");

#[test]
fn an_owner_without_sack_leaves_the_flow_to_the_first_backend() -> Result<()> {
    in_settings(13, |setting| owner_lacks(setting, SACK))
}

#[test]
fn an_owner_without_timestamps_leaves_the_flow_to_the_first_backend() -> Result<()> {
    in_settings(14, |setting| owner_lacks(setting, TIMESTAMPS))
}

#[test]
fn an_owner_without_window_scaling_leaves_the_flow_to_the_first_backend() -> Result<()> {
    in_settings(15, |setting| owner_lacks(setting, WINDOW_SCALE))
}

#[test]
fn an_owner_without_ecn_leaves_the_flow_to_the_first_backend() -> Result<()> {
    in_settings(16, |setting| owner_lacks(setting, ECN))
}

#[test]
fn an_owner_with_a_smaller_mss_takes_the_flow_because_clients_are_told_the_smallest() -> Result<()>
{
    in_settings(17, |setting| {
        let run = setting.scenario().backend_mss(OWNER, 900).start()?;
        let mut case = Case::start(&run)?;
        // A backend's SYN-ACKs tell what it takes, and the agent has clients told within seconds.
        let told = || case.steer.log().contains("are told an MSS of 900").then_some(());
        eventually(Duration::from_secs(10), told).context("clients are not told")?;
        case.count_from_here()?;
        moves_both_ways(&case)?;
        case.expect(&[
            (Counter::MssClamped, 2),
            (Counter::SpliceOpened, 2),
            (Counter::OwnerIncompatible, 0),
        ])?;
        case.unharmed(2)
    })
}

#[test]
fn flows_of_a_first_backend_without_sack_move() -> Result<()> {
    in_settings(18, |setting| flow_moves(ecn_client(setting).backend_sysctl(FIRST, SACK.0, SACK.1)))
}

#[test]
fn flows_of_a_first_backend_without_timestamps_move() -> Result<()> {
    in_settings(19, |setting| {
        flow_moves(ecn_client(setting).backend_sysctl(FIRST, TIMESTAMPS.0, TIMESTAMPS.1))
    })
}

#[test]
fn flows_of_a_first_backend_without_window_scaling_move() -> Result<()> {
    in_settings(20, |setting| {
        flow_moves(ecn_client(setting).backend_sysctl(FIRST, WINDOW_SCALE.0, WINDOW_SCALE.1))
    })
}

#[test]
fn flows_of_a_first_backend_without_ecn_move() -> Result<()> {
    in_settings(21, |setting| flow_moves(ecn_client(setting).backend_sysctl(FIRST, ECN.0, ECN.1)))
}

#[test]
fn flows_of_a_first_backend_with_a_smaller_mss_move() -> Result<()> {
    in_settings(22, |setting| flow_moves(setting.scenario().backend_mss(FIRST, 900)))
}

#[test]
fn flows_of_a_client_without_timestamps_move() -> Result<()> {
    in_settings(23, |setting| {
        flow_moves(setting.scenario().client_sysctl(TIMESTAMPS.0, TIMESTAMPS.1))
    })
}

#[test]
fn flows_of_a_client_without_sack_or_window_scaling_move() -> Result<()> {
    in_settings(24, |setting| {
        let scenario = setting.scenario().client_sysctl(SACK.0, SACK.1);
        flow_moves(scenario.client_sysctl(WINDOW_SCALE.0, WINDOW_SCALE.1))
    })
}

#[test]
fn windows_of_scale_10_pass_for_windows_of_scale_7() -> Result<()> {
    in_settings(26, |setting| scales(setting, 7, 10))
}

#[test]
fn windows_of_scale_7_pass_for_windows_of_scale_10() -> Result<()> {
    in_settings(27, |setting| scales(setting, 10, 7))
}

#[test]
fn windows_of_scale_10_pass_for_windows_of_scale_12() -> Result<()> {
    in_settings(28, |setting| scales(setting, 12, 10))
}

#[test]
fn windows_of_scale_12_pass_for_windows_of_scale_10() -> Result<()> {
    in_settings(29, |setting| scales(setting, 10, 12))
}

#[test]
fn flows_move_between_backends_that_answer_with_syn_cookies() -> Result<()> {
    const COOKIES: (&str, &str) = ("ipv4/tcp_syncookies", "2");
    for (number, backends) in [(30, &[FIRST][..]), (31, &[OWNER]), (32, &[FIRST, OWNER])] {
        in_settings(number, |setting| {
            let scenario = backends.iter().fold(setting.scenario(), |scenario, backend| {
                scenario.backend_sysctl(*backend, COOKIES.0, COOKIES.1)
            });
            flow_moves(scenario)
        })?;
    }
    Ok(())
}

/// A client that asks for ECN, so that all four options are agreed on.
fn ecn_client(setting: Setting) -> Scenario {
    setting.scenario().client_sysctl("ipv4/tcp_ecn", "1")
}

fn owner_lacks(setting: Setting, (sysctl, off): (&str, &str)) -> Result<()> {
    let run = ecn_client(setting).backend_sysctl(OWNER, sysctl, off).start()?;
    let case = Case::start(&run)?;
    let handshake = case.stays(&case.dial)?;
    assert!(handshake.time < TIMER, "without waiting for a timer: {:?}", handshake.time);
    case.expect(&[
        (Counter::Rehome, 1),
        (Counter::OwnerIncompatible, 1),
        (Counter::OwnerReset, 1),
    ])?;
    case.expect(&[(Counter::SpliceOpened, 0), (Counter::Flushed, 1)])?;
    case.unharmed_but_for_resets()
}

fn flow_moves(scenario: Scenario) -> Result<()> {
    let run = scenario.start()?;
    let case = Case::start(&run)?;
    moves_both_ways(&case)?;
    case.expect(&[
        (Counter::Rehome, 2),
        (Counter::SpliceOpened, 2),
        (Counter::HandshakeMismatch, 0),
    ])?;
    case.unharmed(2)
}

fn moves_both_ways(case: &Case<'_>) -> Result<()> {
    case.moves(&case.dial)?;
    let handshake = case.upload(&case.dial, &payload::bytes(3_000_000, 2))?;
    assert!(handshake.resumed, "{handshake:?}");
    Ok(())
}

/// An upload of many windows: the owner's windows reach the client in the first backend's scale.
fn scales(setting: Setting, first: u32, owner: u32) -> Result<()> {
    let run = setting
        .scenario()
        .backend_sysctl(FIRST, "ipv4/tcp_rmem", &receive_memory(first))
        .backend_sysctl(OWNER, "ipv4/tcp_rmem", &receive_memory(owner))
        .start()?;
    let case = Case::start(&run)?;
    case.moves(&case.dial)?;
    assert!(case.upload(&case.dial, &payload::bytes(10_000_000, 3))?.resumed);
    let (_, told) = run.connect(&case.client, &case.dial, |connection| {
        let told = told_scales(&run)?;
        connection.get("/")?;
        connection.finish()?;
        Ok(told)
    })?;
    assert_eq!(told, (first, owner), "the scale that the client was told, and the owner's own");
    case.expect(&[(Counter::SpliceOpened, 3)])?;
    case.unharmed(3)
}

/// `tcp_rmem` whose largest value makes a kernel announce this scale.
fn receive_memory(scale: u32) -> String {
    format!("4096 131072 {}", 1u64 << (scale + 15))
}

/// The scale that an open connection's client was told by its peer, and the one that the owner
/// announced.
fn told_scales(run: &Run) -> Result<(u32, u32)> {
    let scales = |ns: &NetNs| -> Result<(u32, u32)> {
        let text = ns.tool("ss -Htin")?;
        let words = text.split_whitespace().find_map(|word| word.strip_prefix("wscale:"));
        let (peers, own) =
            words.and_then(|words| words.split_once(',')).context("ss names no scale")?;
        Ok((peers.parse()?, own.parse()?))
    };
    Ok((scales(run.lab.client())?.0, scales(run.lab.backend(OWNER))?.1))
}
