//! What becomes of the links under running flows: neighbours forgotten, MAC addresses changed, a
//! link down and up, an MTU that falls.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    case::{Case, OWNER},
    client::Dial,
    netns::NetNs,
    payload,
    scenario::{Run, Scenario},
    setting::{Setting, in_numbered_setting},
    topology::{CLIENT_SIDE, Family, Offloads, backend_side},
};

use crate::owners::unchecked;

const BEAT: Duration = Duration::from_millis(200);
/// As wide a link as there is before it gets narrow, bytes.
const NARROW: u32 = 1300;

#[test]
fn transfers_go_on_while_all_neighbours_are_forgotten_again_and_again() -> Result<()> {
    in_numbered_setting(90, |setting| {
        let run = strangers(setting).start()?;
        let case = Case::start(&run)?;
        under_transfers(&case, || {
            // For longer than it remembers a way the gateway forgets again what it hears. Its peers
            // know it still: they do not ask, and so do not tell; it has to ask.
            let end = Instant::now() + Duration::from_millis(2500);
            while Instant::now() < end {
                forget_neighbours(run.lab.gateway())?;
                thread::sleep(BEAT / 10);
            }
            for _ in 0..10 {
                let backends = (0..run.lab.n_backends()).map(|index| run.lab.backend(index));
                for ns in [run.lab.client(), run.lab.gateway()].into_iter().chain(backends) {
                    forget_neighbours(ns)?;
                }
                thread::sleep(BEAT);
            }
            Ok(())
        })?;
        let asked = case.counted(Counter::NeighbourAsked)?;
        println!("the gateway asked for neighbours {asked} times");
        ensure!(asked > 0, "the gateway asked for nobody");
        case.unharmed_but_for_resets()
    })
}

fn forget_neighbours(ns: &NetNs) -> Result<()> {
    ns.tool("ip -4 neigh flush all")?;
    ns.tool("ip -6 neigh flush all")?;
    Ok(())
}

#[test]
fn transfers_go_on_when_the_owners_interface_changes_its_address() -> Result<()> {
    in_numbered_setting(91, |setting| changes_address(setting, |run| run.lab.backend(OWNER)))
}

#[test]
fn transfers_go_on_when_the_clients_router_changes_its_address() -> Result<()> {
    in_numbered_setting(92, |setting| changes_address(setting, |run| run.lab.client()))
}

/// The client has nothing to say by which the gateway could see where its packets come from now:
/// only the router's own announcement tells.
#[test]
fn a_client_that_only_listens_hears_on_when_its_router_changes_its_address() -> Result<()> {
    in_numbered_setting(93, |setting| {
        let run = strangers(setting).start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("slow", &payload::bytes(400_000, 1))?;
        let mut changed = None;
        let (handshake, response) = run.connect(&case.client, &case.dial, |connection| {
            connection.get_watched("/slow/slow", |read| {
                if read > 100_000 && changed.is_none() {
                    // In the pause: everything is acknowledged.
                    thread::sleep(Duration::from_millis(100));
                    changed = Some((Instant::now(), renew_address(run.lab.client(), 1)));
                }
            })
        })?;
        let (at, renewed) = changed.ok_or_else(|| anyhow::anyhow!("nothing was read"))?;
        renewed?;
        println!("the rest came within {:?}", at.elapsed());
        ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        case.unharmed_but_for_resets()
    })
}

/// For a second the way to the owner is remembered and leads nowhere, then there is none: new
/// clients fall back, and what was under way goes on when the link is back.
#[test]
fn transfers_outlive_three_seconds_of_their_owners_link_down() -> Result<()> {
    in_numbered_setting(94, |setting| {
        let run =
            strangers(setting).gateway_sysctl("ipv6/conf/all/keep_addr_on_down", "1").start()?;
        let case = Case::start(&run)?;
        under_transfers(&case, || {
            run.lab.link(OWNER, false)?;
            let end = Instant::now() + 15 * BEAT;
            while Instant::now() < end {
                // Resumed by nobody else, whatever its way is.
                let stranger = run.new_client()?;
                case.fetch_with(&stranger, &case.dial)?;
                thread::sleep(BEAT);
            }
            run.lab.link(OWNER, true)
        })?;
        case.unharmed_but_for_resets()
    })
}

/// Longer than the programs remember a way; new flows are told of it at once.
#[test]
fn an_upload_goes_on_when_the_way_to_the_owner_gets_narrower_under_it() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let run = Setting { hook: Hook::Tc, family, offloads: Offloads::On }.scenario().start()?;
        let case = Case::start(&run)?;
        uploads_over_a_way_that_narrows(&case)?;
        ensure!(case.counted(Counter::TooBig)? > 0, "nobody was told: {family:?}");
        case.unharmed_but_for_resets()?;
    }
    Ok(())
}

/// Nobody is told of it where routers may cut: the programs do, also what is several segments in one.
#[test]
fn an_upload_that_may_be_cut_goes_on_when_the_way_to_the_owner_gets_narrower_under_it() -> Result<()>
{
    let setting = Setting { hook: Hook::Tc, family: Family::V4, offloads: Offloads::On };
    let run = setting.scenario().start()?;
    let case = Case::start(&run)?;
    // Without path MTU discovery (RFC 1191) packets say that they may be fragmented.
    run.lab.client().sysctl("ipv4/ip_no_pmtu_disc", "1")?;
    uploads_over_a_way_that_narrows(&case)?;
    let counted = |counter| case.counted(counter);
    let (cut, told) = (counted(Counter::TooBigCut)?, counted(Counter::TooBig)?);
    let dropped = counted(Counter::TooBigDropped)?;
    ensure!(cut > 0 && told == 0 && dropped == 0, "{cut} cut, {told} told, {dropped} dropped");
    case.unharmed_but_for_resets()
}

fn uploads_over_a_way_that_narrows(case: &Case<'_>) -> Result<()> {
    const PART: usize = 500_000;
    let run = case.run;
    let body = payload::bytes(3 * PART, 5);
    let mut narrowed = None;
    let (handshake, _) = run.connect(&case.client, &case.dial, |connection| {
        connection.put_watched("/files/up", &body, |sent| {
            if sent > PART && narrowed.is_none() {
                let link = format!("link set {} mtu {NARROW}\n", backend_side(OWNER));
                narrowed = Some((Instant::now(), run.lab.gateway().ip(&link)));
            }
            // The rest in more than three seconds.
            if narrowed.is_some() {
                thread::sleep(Duration::from_millis(60));
            }
        })
    })?;
    let (at, done) = narrowed.ok_or_else(|| anyhow::anyhow!("nothing was sent"))?;
    done?;
    ensure!(at.elapsed() > Duration::from_secs(3), "{:?}", at.elapsed());
    ensure!(
        handshake.resumed && run.servers[OWNER].uploaded("up")? == payload::sha256(&body),
        "{handshake:?}"
    );
    Ok(())
}

#[test]
fn transfers_go_on_when_the_way_to_the_clients_gets_narrower_under_them() -> Result<()> {
    // Only the gateway's end gets narrow, as a router's would. A virtual link drops what is longer
    // than the receiver's MTU, without a word, unless it is to be cut up anyway, and a segment that
    // is sent again alone is not: uploads fit.
    const UPLOAD_MSS: u32 = 1200;
    for family in [Family::V4, Family::V6] {
        // With XDP nothing is to be cut up: only one direction at a time can be tried there
        // (tests/icmp.rs).
        let run = Setting { hook: Hook::Tc, family, offloads: Offloads::On }.scenario().start()?;
        let case = Case::start(&run)?;
        under_transfers_of(&case, Some(UPLOAD_MSS), || {
            thread::sleep(BEAT);
            run.lab.gateway().ip(&format!("link set {CLIENT_SIDE} mtu {NARROW}\n"))?;
            thread::sleep(10 * BEAT);
            Ok(())
        })?;
        ensure!(case.counted(Counter::TooBig)? > 0, "nobody was told: {family:?}");
    }
    Ok(())
}

fn changes_address(setting: Setting, whose: fn(&Run) -> &NetNs) -> Result<()> {
    let run = strangers(setting).start()?;
    let case = Case::start(&run)?;
    under_transfers(&case, || {
        for number in 1..=3 {
            thread::sleep(4 * BEAT);
            renew_address(whose(&run), number)?;
        }
        thread::sleep(4 * BEAT);
        Ok(())
    })?;
    // A kernel that asks for a neighbour's address anew holds packets back meanwhile: some for each
    // change.
    case.unharmed_but_for_resets()
}

/// Gives eth0 another MAC address, and tells the neighbours, as a router that takes over from
/// another does.
fn renew_address(ns: &NetNs, number: u8) -> Result<()> {
    ns.sysctl("ipv4/conf/eth0/arp_notify", "1")?;
    ns.sysctl("ipv6/conf/eth0/ndisc_notify", "1")?;
    ns.ip(&format!("link set eth0 address 02:57:ee:ff:ff:{number:02x}\n"))
}

/// Neighbours are found out, as on a real link.
fn strangers(setting: Setting) -> Scenario {
    unchecked(setting).unknown_neighbours()
}

/// Downloads and uploads over splices of the same session, one after the other, while something
/// happens and until each direction has begun and ended one more afterwards.
fn under_transfers(case: &Case<'_>, happening: impl FnOnce() -> Result<()>) -> Result<()> {
    under_transfers_of(case, None, happening)
}

/// The same with uploads in segments of at most `upload_mss` bytes, if that is told.
fn under_transfers_of(
    case: &Case<'_>,
    upload_mss: Option<u32>,
    happening: impl FnOnce() -> Result<()>,
) -> Result<()> {
    const DOWN: usize = 1 << 20;
    const UP: usize = 500_000;
    let (run, working, moved) = (case.run, AtomicBool::new(true), AtomicUsize::new(0));
    let down = payload::bytes(DOWN, 4);
    // A flow may fall back: both have the file, and take one.
    let sums =
        run.servers.iter().map(|server| server.put("down", &down)).collect::<Result<Vec<_>>>()?;
    let dial = Dial { timeout: Duration::from_secs(15), ..case.dial.clone() };
    let upload_dial = Dial { mss: upload_mss, ..dial.clone() };
    let download = || {
        let pace = |_| thread::sleep(Duration::from_millis(5));
        let got = run
            .connect(&case.client, &dial, |connection| connection.get_watched("/files/down", pace));
        let (handshake, response) = got?;
        ensure!(response.sha256 == sums[OWNER], "a download arrived changed");
        moved.fetch_add(usize::from(handshake.resumed), Ordering::Relaxed);
        Ok(())
    };
    let upload = || {
        let body = payload::bytes(UP, moved.load(Ordering::Relaxed) as u64);
        let (handshake, _) = run
            .connect(&case.client, &upload_dial, |connection| connection.put("/files/up", &body))?;
        let at = run.backend_named(&handshake.server)?;
        ensure!(
            run.servers[at].uploaded("up")? == payload::sha256(&body),
            "an upload arrived changed"
        );
        moved.fetch_add(usize::from(handshake.resumed), Ordering::Relaxed);
        Ok(())
    };
    let again = |transfer: &(dyn Fn() -> Result<()> + Sync)| -> Result<()> {
        while working.load(Ordering::Relaxed) {
            transfer()?;
        }
        transfer()
    };
    thread::scope(|scope| {
        let transfers = [scope.spawn(|| again(&download)), scope.spawn(|| again(&upload))];
        thread::sleep(BEAT);
        let happened = happening();
        working.store(false, Ordering::Relaxed);
        for transfer in transfers {
            transfer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        happened
    })?;
    println!("{} transfers over splices", moved.load(Ordering::Relaxed));
    ensure!(moved.load(Ordering::Relaxed) >= 2, "hardly anything was re-homed");
    Ok(())
}
