//! Clients that connect and are silent for a while, and servers that speak first, with and without
//! the pool's setting `swallow`, beside the kernel's own translation of addresses.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Counts, Settings},
    case::{Case, FIRST},
    client::Dial,
    l4::PlainL4,
    nginx,
    process::eventually,
    scenario::{Run, Scenario},
    setting::{PLAIN, Setting, all, in_one_setting, in_settings},
    topology::{Lab, Plan, backend, source, vip},
};

/// What lies between clients and servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// nftables.
    Plain,
    /// steer, which lets every acknowledgement through.
    Steer,
    /// steer, which drops the first bare one.
    Swallow,
}

/// A server's kernel: what its namespace is told, by the names of sysctls.
type Kernel = &'static [(&'static str, &'static str)];

/// Kernels that repeat their SYN-ACKs often, once or never, and that keep nothing of a handshake.
const KERNELS: [Kernel; 6] = [
    &[("ipv4/tcp_synack_retries", "5"), ("ipv4/tcp_syncookies", "1")],
    &[("ipv4/tcp_synack_retries", "1"), ("ipv4/tcp_syncookies", "1")],
    &[("ipv4/tcp_synack_retries", "5"), ("ipv4/tcp_syncookies", "0")],
    &[("ipv4/tcp_synack_retries", "1"), ("ipv4/tcp_syncookies", "0")],
    &[("ipv4/tcp_synack_retries", "0"), ("ipv4/tcp_syncookies", "0")],
    &[("ipv4/tcp_synack_retries", "5"), ("ipv4/tcp_syncookies", "2")],
];

/// For how long clients are silent, seconds; the long ones, in one setting, only where every
/// setting is tried.
fn silences(setting: Setting) -> &'static [u64] {
    if all() && setting == PLAIN { &[0, 1, 10, 70, 150] } else { &[0, 1, 10] }
}

fn scenario(setting: Setting, way: Way, kernels: &[Kernel], listen: &str) -> Scenario {
    let patience = "4m".to_owned();
    let nginx =
        nginx::Settings { listen: listen.to_owned(), patience, ..nginx::Settings::default() };
    let scenario = setting.scenario().backends(kernels.len()).nginx(nginx);
    let scenario = scenario.vip_setting(&format!("swallow = {}", way == Way::Swallow));
    kernels.iter().enumerate().fold(scenario, |scenario, (index, kernel)| {
        kernel
            .iter()
            .fold(scenario, |scenario, (path, value)| scenario.backend_sysctl(index, path, value))
    })
}

/// One client's visit.
#[derive(Clone, Copy, Debug)]
struct Visit {
    backend: usize,
    silent: u64,
    source: usize,
}

/// What came of it.
type Told = (Visit, Result<String, String>);

/// Clients without a session, all at once: one for each server and time, and what each of them saw.
fn visits(run: &Run, silences: &[u64]) -> Result<Vec<Told>> {
    let sources =
        (0..run.servers.len()).map(|backend| run.source_of(backend)).collect::<Result<Vec<_>>>()?;
    let visit = |(backend, &source): (usize, &usize)| {
        silences.iter().map(move |&silent| Visit { backend, silent, source }).collect::<Vec<_>>()
    };
    let visits: Vec<_> = sources.iter().enumerate().flat_map(visit).collect();
    run.at_once(visits.len(), visits.len(), |number| {
        let visit = visits[number];
        let dial = Dial { idle: Duration::from_secs(visit.silent), ..run.dial(visit.source) };
        let seen = run.new_client()?.visit(&dial);
        Ok((visit, seen.map(|handshake| handshake.server).map_err(|error| format!("{error:#}"))))
    })
}

/// Expects every one to have been served by the server that its address leads to.
#[track_caller]
fn served(run: &Run, way: Way, told: &[Told]) {
    for (visit, told) in told {
        let named = &run.pki.server(visit.backend).name;
        assert_eq!(
            told.as_ref(),
            Ok(named),
            "{way:?}, {visit:?}, {}",
            run.servers[visit.backend].log("error.log")
        );
    }
}

/// Lets silent clients in by each way, at the same time, and hands on what they saw and what steer
/// counted meanwhile.
fn by_every_way(
    setting: Setting,
    kernels: &[Kernel],
    listen: &str,
    judge: impl Fn(&Run, Way, &[Told], &dyn Fn(Counter) -> u64) -> Result<()> + Sync,
) -> Result<()> {
    let judge = &judge;
    thread::scope(|scope| {
        let ways = [Way::Plain, Way::Steer, Way::Swallow].map(|way| {
            scope.spawn(move || -> Result<()> {
                let run = scenario(setting, way, kernels, listen).start()?;
                if way == Way::Plain {
                    let _rules = PlainL4::start(&run.lab)?;
                    return judge(&run, way, &visits(&run, silences(setting))?, &|_| 0);
                }
                let steer = run.agent()?;
                let before = steer.counts()?;
                let told = visits(&run, silences(setting))?;
                let after = steer.counts()?;
                judge(&run, way, &told, &|counter| growth(&before, &after, counter))
            })
        });
        ways.into_iter()
            .try_for_each(|way| way.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn growth(before: &Counts, after: &Counts, counter: Counter) -> u64 {
    after.of(counter).unwrap_or_default() - before.of(counter).unwrap_or_default()
}

fn all_served(setting: Setting, kernels: &[Kernel], listen: &str) -> Result<()> {
    by_every_way(setting, kernels, listen, |run, way, told, counted| {
        served(run, way, told);
        let swallowed = counted(Counter::AckSwallowed);
        let all = if way == Way::Swallow { told.len() as u64 } else { 0 };
        assert!(
            swallowed >= all && (all > 0 || swallowed == 0),
            "{way:?}: {swallowed} acknowledgements were swallowed"
        );
        Ok(())
    })
}

#[test]
fn silent_clients_are_served_whatever_their_servers_keep_of_a_handshake() -> Result<()> {
    in_one_setting(|setting| all_served(setting, &KERNELS, "backlog=4096"))
}

#[test]
fn silent_clients_are_served_where_listeners_are_deferred() -> Result<()> {
    in_one_setting(|setting| all_served(setting, &KERNELS, "backlog=4096 deferred"))
}

/// Each of them answers one segment that says nothing new, and no other for ten minutes.
#[test]
fn silent_clients_are_served_that_answer_a_repeated_syn_ack_once() -> Result<()> {
    in_settings(302, |setting| {
        let scenario = scenario(setting, Way::Swallow, &KERNELS, "backlog=4096");
        let run = scenario.client_sysctl("ipv4/tcp_invalid_ratelimit", "600000").start()?;
        let _steer = run.agent()?;
        let before = run.client_counters()?;
        let told = visits(&run, &[4])?;
        served(&run, Way::Swallow, &told);
        let answered = run.client_counters()?.since(&before).of("TcpExt.TCPSYNChallenge");
        assert_eq!(answered, told.len() as i64, "answers to a repeated SYN-ACK");
        Ok(())
    })
}

/// Nobody asks for what was swallowed: the servers' own repetitions have to do, and nothing more is
/// swallowed once the programs have not heard of the agent for two seconds.
#[test]
fn without_an_agent_silent_clients_are_served_and_swallowing_ends() -> Result<()> {
    in_settings(303, |setting| {
        let run = scenario(setting, Way::Swallow, &KERNELS[..4], "backlog=4096").start()?;
        let mut steer = run.agent()?;
        let sources = (0..run.servers.len())
            .map(|backend| run.source_of(backend))
            .collect::<Result<Vec<_>>>()?;
        steer.end(Signal::SIGKILL)?;
        let before = steer.counts()?;
        let swallowed = |steer: &Agent<'_>| {
            anyhow::Ok(growth(&before, &steer.counts()?, Counter::AckSwallowed))
        };
        run.at_once(sources.len(), sources.len(), |number| {
            let dial = Dial { idle: Duration::from_secs(4), ..run.dial(sources[number]) };
            run.new_client()?.visit(&dial)
        })?;
        ensure!(
            swallowed(&steer)? == sources.len() as u64,
            "{} were swallowed",
            swallowed(&steer)?
        );
        // Their silence was longer than the agent's word holds.
        let many = swallowed(&steer)?;
        run.at_once(64, 8, |number| run.dial(number).say(&[]).map(drop))?;
        ensure!(
            swallowed(&steer)? == many,
            "{} were swallowed for nobody",
            swallowed(&steer)? - many
        );
        steer.launch()?;
        // As soon as it says that it asks.
        let again = || {
            run.visit(&run.new_client().ok()?, &run.dial(1)).ok()?;
            (swallowed(&steer).ok()? > many).then_some(())
        };
        ensure!(
            eventually(Duration::from_secs(5), again).is_some(),
            "nothing is swallowed any more"
        );
        Ok(())
    })
}

#[test]
fn without_the_right_to_send_packets_nothing_is_swallowed() -> Result<()> {
    in_settings(304, |setting| {
        let run = scenario(setting, Way::Swallow, &KERNELS[4..], "backlog=4096").start()?;
        let mut steer = Agent::prepare(&run.lab, &run.steer)?;
        steer.launch_by(&["setpriv", "--bounding-set=-net_raw"])?;
        served(&run, Way::Steer, &visits(&run, &[0, 2])?);
        let log = steer.log();
        ensure!(log.contains("`swallow` is off"), "{log}");
        ensure!(steer.count(Counter::AckSwallowed)? == 0);
        Ok(())
    })
}

#[test]
fn nothing_is_swallowed_where_nothing_moves() -> Result<()> {
    in_settings(305, |setting| {
        let run = setting.scenario().vip_setting("swallow = true").start()?;
        let steer = run.agent()?;
        steer.steer("bypass on")?;
        run.visit(&run.new_client()?, &run.dial(1))?;
        ensure!(steer.count(Counter::AckSwallowed)? == 0, "with bypass on");
        steer.steer("bypass off")?;
        run.visit(&run.new_client()?, &run.dial(1))?;
        ensure!(steer.count(Counter::AckSwallowed)? == 1, "with bypass off");
        drop(steer);
        let run = setting.scenario().vip_setting("mode = \"observe\"\nswallow = true").start()?;
        let steer = run.agent()?;
        run.visit(&run.new_client()?, &run.dial(1))?;
        ensure!(steer.count(Counter::AckSwallowed)? == 0, "in observe mode");
        Ok(())
    })
}

#[test]
fn a_flow_that_moves_never_enters_the_first_backends_accept_queue() -> Result<()> {
    in_settings(306, |setting| {
        let mut scenario = setting.scenario().vip_setting("swallow = true");
        scenario.steer.health = vec!["enabled = false".to_owned()];
        let run = scenario.start()?;
        let case = Case::start(&run)?;
        for _ in 0..8 {
            case.moves(&case.dial)?;
        }
        ensure!(case.kernel(FIRST + 1, "Tcp.PassiveOpens")? == 0, "the first backend made sockets");
        case.expect(&[(Counter::SpliceOpened, 8)])?;
        case.unharmed(8)
    })
}

/// Servers that greet whoever connects.
struct Greeters {
    closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

const GREETING: &[u8] = b"220 ready\r\n";

impl Greeters {
    /// One at every backend.
    fn start(setting: Setting, lab: &Lab) -> Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let listen = |index| -> Result<JoinHandle<()>> {
            let address = backend(setting.family, index);
            let listener = lab.backend(index).run(|| Ok(TcpListener::bind(address)?))?;
            listener.set_nonblocking(true)?;
            let closed = closed.clone();
            Ok(thread::spawn(move || greet(&listener, &closed)))
        };
        let threads = (0..lab.n_backends()).map(listen).collect::<Result<_>>()?;
        Ok(Self { closed, threads })
    }
}

impl Drop for Greeters {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn greet(listener: &TcpListener, closed: &AtomicBool) {
    let mut open = Vec::new();
    while !closed.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // Health checks are gone by then.
                drop(stream.write_all(GREETING));
                open.push(stream);
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// How long a client waits for its greeting.
fn greeted(lab: &Lab, from: SocketAddr, target: SocketAddr) -> Result<Duration> {
    lab.client().run(|| {
        let start = Instant::now();
        let mut stream = Dial::new(from.ip(), target).say(&[])?;
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).context("no greeting")?;
        ensure!(greeting == GREETING, "a client was told {greeting:?}");
        Ok(start.elapsed())
    })
}

/// The first client of each server waits for a moment, with SYN cookies, too; then it is known that
/// they speak first.
#[test]
fn servers_that_speak_first_keep_one_client_waiting_for_a_moment() -> Result<()> {
    const MOMENT: Duration = Duration::from_millis(700);
    in_settings(300, |setting| {
        for cookies in ["1", "2"] {
            let lab =
                Lab::build(&Plan { offloads: setting.offloads, n_backends: 2, ..Plan::default() })?;
            (0..2)
                .try_for_each(|index| lab.backend(index).sysctl("ipv4/tcp_syncookies", cookies))?;
            let _greeters = Greeters::start(setting, &lab)?;
            let mut settings = Settings::new(setting.hook);
            settings.vip.push("swallow = true".to_owned());
            let steer = Agent::start(&lab, &settings)?;
            let waits = (0..32).map(|index| {
                let from = (source(setting.family, index), 0).into();
                greeted(&lab, from, vip(setting.family))
            });
            let waits = waits.collect::<Result<Vec<_>>>()?;
            let waited = waits.iter().filter(|wait| **wait >= Duration::from_millis(90)).count();
            ensure!(
                waits.iter().all(|wait| *wait < MOMENT),
                "with tcp_syncookies={cookies}: {waits:?}"
            );
            let swallowed = steer.count(Counter::AckSwallowed)?;
            ensure!(
                swallowed == 2 && waited >= 2,
                "{swallowed} swallowed, {waited} waited: {waits:?}"
            );
        }
        Ok(())
    })
}
