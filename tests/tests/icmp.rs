//! Path MTU and ICMP errors: what a plain router does for a flow, the gateway does for one that it
//! rewrites; and what is no flow of its own passes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    icmp_errors::{Teller, Trouble},
    netns::NetNs,
    payload,
    scenario::Run,
    setting::in_settings,
    topology::{CLIENT_SIDE, Family, backend_side},
};

const NARROW: u32 = 1300;
const MEGABYTES_2: usize = 2 * 1024 * 1024;

/// The gateway's segments would leave by an interface that drops them: the client has to be told.
#[test]
fn an_upload_goes_on_when_the_way_to_the_owner_gets_narrower() -> Result<()> {
    in_settings(61, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let body = payload::bytes(MEGABYTES_2, 3);
        let (handshake, ()) = run.connect(&case.client, &case.dial, |connection| {
            narrow(&run, &backend_side(OWNER))?;
            connection.put("/files/up", &body)?;
            connection.finish()
        })?;
        ensure!(handshake.resumed, "{handshake:?}");
        ensure!(
            run.servers[OWNER].uploaded("up")? == payload::sha256(&body),
            "the upload arrived changed"
        );
        ensure!(case.counted(Counter::TooBig)? > 0, "the client was told");
        Ok(())
    })
}

/// The kernel tells the backend, whose packet it gets as it was sent.
#[test]
fn a_download_goes_on_when_the_way_to_the_client_gets_narrower() -> Result<()> {
    in_settings(62, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let body = payload::bytes(MEGABYTES_2, 4);
        let sum = run.servers[OWNER].put("down", &body)?;
        let (handshake, response) = run.connect(&case.client, &case.dial, |connection| {
            narrow(&run, CLIENT_SIDE)?;
            connection.get("/files/down")
        })?;
        ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        ensure!(case.counted(Counter::TooBig)? > 0, "the kernel was given what is too big");
        Ok(())
    })
}

/// A router on the clients' side says that the VIP's packets are too big: the owner hears of it, in
/// its own numbers.
#[test]
fn an_error_about_the_vips_packets_reaches_the_owner() -> Result<()> {
    in_settings(63, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        run.connect(&case.client, &case.dial, |_| {
            let flow = spliced_flow(&case)?;
            let (vip, client) = (run.vip(), SocketAddr::new(case.dial.source, flow.client_port));
            let quoted = flow.server_next.wrapping_add(flow.delta);
            tell_too_big(run.lab.client(), case.dial.source, vip.ip(), (vip, client), quoted)?;
            let known = route_mtu(run.lab.backend(OWNER), client.ip())?;
            ensure!(known == Some(NARROW), "the owner's route to the client has MTU {known:?}");
            Ok(())
        })?;
        ensure!(case.counted(Counter::IcmpTranslated)? == 1, "one error was translated");
        Ok(())
    })
}

/// The owner's side says that the client's packets are too big: the client hears it of the VIP.
#[test]
fn an_error_about_the_clients_packets_reaches_the_client() -> Result<()> {
    in_settings(64, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        run.connect(&case.client, &case.dial, |_| {
            let flow = spliced_flow(&case)?;
            let (owner, client) =
                (run.backend_address(OWNER), SocketAddr::new(case.dial.source, flow.client_port));
            let quoted = flow.client_next;
            tell_too_big(run.lab.backend(OWNER), owner.ip(), client.ip(), (client, owner), quoted)?;
            let known = route_mtu(run.lab.client(), run.vip().ip())?;
            ensure!(known == Some(NARROW), "the client's route to the VIP has MTU {known:?}");
            Ok(())
        })?;
        ensure!(case.counted(Counter::IcmpTranslated)? == 1, "one error was translated");
        Ok(())
    })
}

/// Blind: a sequence number that was never sent.
#[test]
fn a_forged_error_is_not_translated() -> Result<()> {
    in_settings(65, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        run.connect(&case.client, &case.dial, |_| {
            let flow = spliced_flow(&case)?;
            let (vip, client) = (run.vip(), SocketAddr::new(case.dial.source, flow.client_port));
            let quoted = flow.server_next.wrapping_add(flow.delta).wrapping_add(1 << 30);
            tell_too_big(run.lab.client(), case.dial.source, vip.ip(), (vip, client), quoted)?;
            ensure!(
                route_mtu(run.lab.backend(OWNER), client.ip())?.is_none(),
                "the owner believed a forgery"
            );
            Ok(())
        })?;
        ensure!(case.counted(Counter::IcmpTranslated)? == 0, "nothing was translated");
        Ok(())
    })
}

/// Every source address is tried, so that some of them are what the lookup table maps to this very
/// backend.
#[test]
fn who_dials_a_backend_itself_is_left_alone() -> Result<()> {
    in_settings(66, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        for source in 0..16 {
            let dial = steer_tests::client::Dial {
                target: run.backend_address(FIRST),
                ..run.dial(source)
            };
            let stranger = run.new_client()?;
            let handshake = run.visit(&stranger, &dial)?;
            ensure!(run.backend_named(&handshake.server)? == FIRST, "{handshake:?}");
        }
        ensure!(case.counted(Counter::DirectAccess)? >= 16, "each was seen");
        ensure!(case.counted(Counter::NoFlowTranslated)? == 0, "none was taken for the VIP's");
        Ok(())
    })
}

/// Another port of the same backend, and of the VIP's address, is nobody's business.
#[test]
fn other_ports_pass_untouched() -> Result<()> {
    in_settings(67, |setting| {
        let run = setting.scenario().start()?;
        let _case = Case::start(&run)?;
        let address = SocketAddr::new(run.backend_address(OWNER).ip(), 8022);
        let listener = run.lab.backend(OWNER).run(|| Ok(TcpListener::bind(address)?))?;
        let server = thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut heard = [0; 5];
            stream.read_exact(&mut heard)?;
            Ok(stream.write_all(&heard)?)
        });
        let mut stream = run.lab.client().run(|| Ok(TcpStream::connect(address)?))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"hello")?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo)?;
        ensure!(&echo == b"hello", "{echo:?}");
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}

/// Lowers the MTU of an interface of the gateway, and waits until steer asks for it again.
fn narrow(run: &Run, interface: &str) -> Result<()> {
    run.lab.gateway().ip(&format!("link set {interface} mtu {NARROW}\n"))?;
    thread::sleep(Duration::from_millis(2100));
    Ok(())
}

/// What the test needs of the one re-homed flow.
struct Spliced {
    client_port: u16,
    client_next: u32,
    server_next: u32,
    delta: u32,
}

/// The newest spliced flow, as `bpftool` prints it.
fn spliced_flow(case: &Case<'_>) -> Result<Spliced> {
    const SPLICED: u64 = 6;
    let pin = case.steer.map_pin("flows");
    let out = std::process::Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&pin)
        .output()?;
    let all: Vec<Value> =
        serde_json::from_slice(&out.stdout).context("read what bpftool printed")?;
    let entries = all.iter().map(|entry| &entry["formatted"]);
    let number = |entry: &Value, name: &str| entry["value"][name].as_u64().map(|n| n as u32);
    for entry in entries.rev() {
        if entry["value"]["word"].as_u64().is_some_and(|word| word & 0xff == SPLICED) {
            let port = |at: usize| entry["key"]["client_port"][at].as_u64().map(|n| n as u16);
            return Ok(Spliced {
                client_port: port(0)
                    .zip(port(1))
                    .map(|(high, low)| high << 8 | low)
                    .context("read client_port")?,
                client_next: number(entry, "client_next").context("read client_next")?,
                server_next: number(entry, "server_next").context("read server_next")?,
                delta: number(entry, "delta").context("read delta")?,
            });
        }
    }
    anyhow::bail!("no flow is spliced")
}

/// Sends Frag-Needed or Packet-Too-Big from `from` to `to`, quoting a segment of `quoted` (source,
/// destination).
fn tell_too_big(
    ns: &NetNs,
    from: IpAddr,
    to: IpAddr,
    quoted: (SocketAddr, SocketAddr),
    seq: u32,
) -> Result<()> {
    Teller::open(ns, from, to)?.tell(Trouble::TooBig(NARROW), quoted, seq)?;
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// The path MTU that a host has learned for an address.
fn route_mtu(ns: &NetNs, to: IpAddr) -> Result<Option<u32>> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let route = ns.tool(&format!("ip {flag} route get {to}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    Ok(words.next().and_then(|mtu| mtu.parse().ok()))
}
