//! What becomes of moved flows when ports come, go and change their names.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    client::Connection,
    frames::Tap,
    l4::Snat,
    nginx, payload,
    process::eventually,
    scenario::Run,
    setting::{Setting, in_settings},
    topology::{BRIDGE, backend_side, mac},
};

use crate::moves::{scenario, show_the_ways};

/// Until the agent has seen what happened to a port.
const SEEN: Duration = Duration::from_secs(2);

fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    scenario(setting).nginx(kept).bridge(Snat::No).start()
}

/// Bytes go both ways, and arrive as they were sent; the connection stays open.
fn talk(connection: &mut Connection) -> Result<()> {
    connection.keep_open(true);
    let sum = payload::sha256(&payload::bytes(300_000, 7));
    ensure!(connection.get("/files/file")?.sha256 == sum, "the file arrived changed");
    connection.put("/files/up", &payload::bytes(200_000, 3)).map(drop)
}

/// A port keeps its index, whatever it is called.
#[test]
fn a_moved_flow_goes_on_when_its_port_gets_another_name() -> Result<()> {
    in_settings(360, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let port = backend_side(OWNER);
        let (shaken, ()) = run.connect(&case.client, &case.dial, |connection| {
            talk(connection)?;
            run.lab.gateway().ip(&format!("link set {port} name renamed\n"))?;
            thread::sleep(SEEN);
            talk(connection)
        })?;
        assert!(shaken.resumed, "{shaken:?}");
        run.lab.gateway().ip(&format!("link set renamed name {port}\n"))
    })
}

/// A moved flow is cut while its owner's port is down, as any would be, and goes on behind that.
#[test]
fn a_moved_flow_waits_while_its_owners_port_is_down() -> Result<()> {
    in_settings(361, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let (shaken, ()) = run.connect(&case.client, &case.dial, |connection| {
            talk(connection)?;
            run.lab.link(OWNER, false)?;
            thread::sleep(SEEN);
            run.lab.link(OWNER, true)?;
            talk(connection)
        })?;
        assert!(shaken.resumed, "{shaken:?}");
        case.expect(&[(Counter::SpliceOpened, 1)])
    })
}

/// A spanning tree blocks the ports in mid-flow, whose links are up: nothing goes past that.
#[test]
fn a_moved_flow_waits_while_a_spanning_tree_blocks_its_ports() -> Result<()> {
    in_settings(364, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        case.steer
            .reload(|file| file.replacen("[[bridge]]", "[[bridge]]\nstp = \"watched\"", 1))?;
        let (shaken, ()) = run.connect(&case.client, &case.dial, |connection| {
            talk(connection)?;
            // A port that comes up listens and learns, two seconds each.
            let (on, port) = ("type bridge forward_delay 200 stp_state 1", backend_side(OWNER));
            run.lab.gateway().ip(&format!(
                "link set {BRIDGE} {on}\nlink set {port} down\nlink set {port} up\n"
            ))?;
            thread::sleep(SEEN / 2);
            let tap = Tap::open(run.lab.backend(OWNER), "eth0")?;
            tap.enlarge()?;
            let count = || -> Result<usize> {
                let mut buffer = vec![0; 2048];
                let (until, mut n) = (Instant::now() + SEEN, 0);
                while Instant::now() < until {
                    let frame = tap.receive(Duration::from_millis(100), &mut buffer)?;
                    let came = frame.is_some_and(|(_, len)| buffer[..len][6..12] == mac(0, 2));
                    n += usize::from(came);
                }
                Ok(n)
            };
            let blocked = thread::scope(|scope| -> Result<usize> {
                let blocked = scope.spawn(count);
                talk(connection)?;
                blocked.join().expect("it counts")
            })?;
            ensure!(blocked == 0, "{blocked} frames of the balancer went past the block");
            Ok(())
        })?;
        assert!(shaken.resumed, "{shaken:?}");
        case.expect(&[(Counter::SpliceOpened, 1)])
    })
}

/// The bridge is taken away and made again under a moved flow.
#[test]
fn a_moved_flow_goes_on_when_the_bridge_is_made_anew() -> Result<()> {
    in_settings(362, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let ports = run.lab.gateway_interfaces();
        let masters: String =
            ports.iter().map(|port| format!("link set {port} master {BRIDGE}\n")).collect();
        let (shaken, ()) = run.connect(&case.client, &case.dial, |connection| {
            talk(connection)?;
            run.lab.gateway().ip(&format!("link del {BRIDGE}\n"))?;
            thread::sleep(SEEN);
            run.lab
                .gateway()
                .ip(&format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n{masters}"))?;
            talk(connection)
        })?;
        assert!(shaken.resumed, "{shaken:?}");
        // The last port may not be looked at yet.
        let looked_at = || {
            let status = case.steer.json("status").ok()?;
            let ports = status["bridges"][0]["ports"].as_array()?;
            ports.iter().all(|port| port["looked_at"] == true).then_some(())
        };
        eventually(10 * SEEN, looked_at).context("its ports are not looked at again")?;
        show_the_ways(&run)?;
        case.moves(&case.dial).map(drop)
    })
}

/// Every frame of a moved connection leaves once: none comes back out of the port that it came in
/// by, and none is seen twice.
#[test]
fn no_frame_of_a_moved_flow_is_sent_twice_or_back() -> Result<()> {
    in_settings(363, |setting| {
        let run = run(setting.wire())?;
        let case = Case::start(&run)?;
        let balancer = run.lab.balancer().expect("a balancer");
        let tap = Tap::open(balancer, "eth0")?;
        tap.enlarge()?;
        case.moves(&case.dial)?;
        let mut buffer = vec![0; 2048];
        let mut n = 0;
        while let Some((_, len)) = tap.receive(Duration::from_millis(200), &mut buffer)? {
            let frame = &buffer[..len];
            n += 1;
            // What the balancer sent itself comes from its station; the bridge sends it nothing in
            // its own name.
            let (to, from) = (&frame[..6], &frame[6..12]);
            let own = from == mac(0, 2).as_slice();
            let for_it = to == mac(0, 2).as_slice() || to[0] & 1 != 0;
            assert!(own || for_it, "{to:x?} from {from:x?}");
        }
        assert!(n > 10, "{n} frames");
        Ok(())
    })
}
