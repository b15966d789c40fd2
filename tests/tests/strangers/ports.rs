//! One source port for several connections of a client: to the VIP and to backends' own addresses,
//! in every order.
//!
//! For the client these are different connections, for a backend they are not: whichever comes
//! second has another port there.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::Dial,
    payload,
    setting::{Setting, in_settings},
    talk::{Conversation, Crowd, Who},
};

use crate::street::{Since, Street, nothing_was_guessed};

/// Clients that try each backend.
const CLIENTS: usize = 6;
const PORT: u16 = 20_000;
/// Clients' timestamps of one clock, as most stacks have them: a later connection's are later.
const ONE_CLOCK: (&str, &str) = ("ipv4/tcp_timestamps", "2");

/// Each client dials the VIP and each backend, from one port, in this order; both connections go
/// on.
fn both_go_on(
    number: usize,
    n_backends: usize,
    order: impl Fn(SocketAddr, SocketAddr) -> [SocketAddr; 2],
) -> Result<()> {
    in_settings(number, |setting| {
        let street = Street::with_backends(setting, n_backends)?;
        let steer = street.agent()?;
        let since = Since::now(&steer)?;
        let mut broken = Vec::new();
        for (client, backend) in pairs(n_backends) {
            let targets = order(street.vip(), street.backend(backend));
            if let Err(error) = talk_from_one_port(&street, client, backend, targets) {
                broken.push(format!("client {client}, backend {backend}: {error:#}"));
            }
        }
        let n = pairs(n_backends).count();
        ensure!(broken.is_empty(), "{} of {n} pairs whole; others: {broken:#?}", n - broken.len());
        // Of all clients some are led to the backend that they dial themselves.
        let translated = since.of(Counter::LegTranslated)?;
        ensure!(translated > 0 && translated <= n as u64, "{translated} of {n} had another port");
        nothing_was_guessed(&steer)
    })
}

fn pairs(n_backends: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..CLIENTS).flat_map(move |client| (0..n_backends).map(move |backend| (client, backend)))
}

fn talk_from_one_port(
    street: &Street,
    client: usize,
    backend: usize,
    targets: [SocketAddr; 2],
) -> Result<()> {
    let source = SocketAddr::new(street.client(client), PORT + backend as u16);
    let mut first = street.dial_from(source, targets[0]).context("the first")?;
    first.exchange(30_000).context("the first, alone")?;
    let mut second = street.dial_from(source, targets[1]).context("the second")?;
    for _ in 0..2 {
        second.exchange(30_000).context("the second")?;
        first.exchange(30_000).context("the first, beside the second")?;
    }
    // Either side speaks and ends.
    first.say(Who::Server, 1000)?;
    second.say(Who::Server, 1000)?;
    first.finish(Who::Server).context("the first ends")?;
    second.exchange(30_000).context("the second, alone")?;
    second.finish(Who::Client).context("the second ends")
}

#[test]
fn a_direct_connection_and_one_to_the_vip_go_on_from_one_port_the_vips_first() -> Result<()> {
    both_go_on(240, 3, |vip, backend| [vip, backend])
}

#[test]
fn a_direct_connection_and_one_to_the_vip_go_on_from_one_port_the_direct_first() -> Result<()> {
    both_go_on(241, 3, |vip, backend| [backend, vip])
}

#[test]
fn both_go_on_in_a_pool_of_one_backend_the_vips_first() -> Result<()> {
    both_go_on(242, 1, |vip, backend| [vip, backend])
}

#[test]
fn both_go_on_in_a_pool_of_one_backend_the_direct_first() -> Result<()> {
    both_go_on(243, 1, |vip, backend| [backend, vip])
}

/// Steer never saw the SYN of the direct one.
#[test]
fn both_go_on_where_the_direct_connection_is_older_than_the_gateway() -> Result<()> {
    in_settings(244, |setting| {
        let street = Street::build(setting)?;
        let source = |client: usize, backend: usize| {
            SocketAddr::new(street.client(client), PORT + backend as u16)
        };
        let dial =
            |(client, backend)| street.dial_from(source(client, backend), street.backend(backend));
        let mut direct: Vec<_> = pairs(3).map(dial).collect::<Result<_>>()?;
        let steer = street.agent()?;
        let mut own = Vec::new();
        for ((client, backend), direct) in pairs(3).zip(&mut direct) {
            let mut conversation = street.dial_from(source(client, backend), street.vip())?;
            conversation
                .exchange(30_000)
                .with_context(|| format!("client {client} and the VIP"))?;
            direct
                .exchange(30_000)
                .with_context(|| format!("client {client} and backend {backend}"))?;
            own.push(conversation);
        }
        for crowd in [Crowd::of(direct), Crowd::of(own)] {
            crowd.goes_on();
            crowd.end()?;
        }
        nothing_was_guessed(&steer)
    })
}

#[test]
fn connections_to_the_vip_and_to_every_backend_go_on_from_one_port_in_any_order() -> Result<()> {
    in_settings(245, |setting| {
        let street = Street::build(setting)?;
        let steer = street.agent()?;
        let targets = [street.vip(), street.backend(0), street.backend(1), street.backend(2)];
        for (client, order) in orders().into_iter().enumerate() {
            let source = SocketAddr::new(street.client(client), PORT);
            let dial = |at: &usize| street.dial_from(source, targets[*at]);
            let conversations: Vec<_> = order.iter().map(dial).collect::<Result<_>>()?;
            together(conversations)
                .with_context(|| format!("in the order {order:?} (0: the VIP)"))?;
        }
        nothing_was_guessed(&steer)
    })
}

/// The port is free again when a connection has ended, and nobody takes what it is used for next
/// for the one before.
#[test]
fn a_port_serves_the_vip_and_a_backend_by_turns() -> Result<()> {
    in_settings(246, |setting| {
        let street = Street::with_backends(setting, 1)?;
        street.lab.client().sysctl(ONE_CLOCK.0, ONE_CLOCK.1)?;
        let steer = street.agent()?;
        for round in 0..8 {
            let target = if round % 2 == 0 { street.vip() } else { street.backend(0) };
            let dialled = street.dial_from((street.client(0), PORT).into(), target);
            let mut conversation = dialled.with_context(|| format!("round {round}"))?;
            conversation.exchange(20_000).with_context(|| format!("round {round}, {target}"))?;
            // Who ends first waits (RFC 9293 3.6.1): were it the client, it could not use the port
            // again.
            conversation.finish(Who::Server).with_context(|| format!("round {round}, {target}"))?;
        }
        nothing_was_guessed(&steer)
    })
}

/// The owner has a connection of these addresses and ports already: the flow has another port
/// there.
#[test]
fn a_flow_moves_to_an_owner_at_which_its_client_has_another_connection_from_the_same_port()
-> Result<()> {
    in_settings(247, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let body = payload::bytes(2 << 20, 5);
        let sum = run.servers[OWNER].put("down", &body)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        let (_, direct) =
            run.connect(&run.new_client()?, &to_backend(&case, OWNER, &dial), |direct| {
                case.moves(&dial)?;
                let response = direct.get("/files/down")?;
                direct.finish()?;
                Ok(response.sha256)
            })?;
        ensure!(direct == sum, "the direct download arrived changed");
        case.expect(&[
            (Counter::SpliceOpened, 1),
            (Counter::LegTranslated, 1),
            (Counter::OwnerReset, 0),
        ])?;
        case.unharmed(1)
    })
}

/// The client dials its flow's owner itself, and the backend that the flow has left.
#[test]
fn direct_connections_from_the_port_of_a_flow_that_moved_leave_it_alone() -> Result<()> {
    in_settings(248, |setting: Setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let body = payload::bytes(2 << 20, 6);
        let sum = run.servers[OWNER].put("down", &body)?;
        let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
        let stranger = run.new_client()?;
        let (handshake, moved) = run.connect(&case.client, &dial, |moved| {
            for backend in [OWNER, FIRST] {
                stranger.forget();
                let direct = case.fetch_with(&stranger, &to_backend(&case, backend, &dial))?;
                ensure!(
                    run.backend_named(&direct.server)? == backend,
                    "{direct:?}, not backend {backend}"
                );
            }
            let response = moved.get("/files/down")?;
            moved.finish()?;
            Ok(response.sha256)
        })?;
        ensure!(handshake.resumed && moved == sum, "{handshake:?}");
        case.unharmed(1)
    })
}

/// Lets all of these talk by turns, then ends them.
fn together(mut conversations: Vec<Conversation>) -> Result<()> {
    for round in 0..3 {
        for (number, conversation) in conversations.iter_mut().enumerate() {
            let first = if round % 2 == 0 { Who::Server } else { Who::Client };
            conversation
                .say(first, 9000)
                .with_context(|| format!("number {number}, round {round}"))?;
            conversation
                .say(first.other(), 9000)
                .with_context(|| format!("number {number}, round {round}"))?;
        }
    }
    conversations.into_iter().try_for_each(|conversation| conversation.finish(Who::Client))
}

/// Every order of four.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for number in 0..4usize.pow(4) {
        let order = [number % 4, number / 4 % 4, number / 16 % 4, number / 64];
        if (0..4).all(|target| order.contains(&target)) {
            orders.push(order);
        }
    }
    orders
}

fn to_backend(case: &Case<'_>, backend: usize, dial: &Dial) -> Dial {
    Dial { target: case.run.backend_address(backend), ..dial.clone() }
}
