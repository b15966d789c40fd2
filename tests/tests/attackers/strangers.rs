//! Floods of segments that belong to no flow.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{FIRST, OWNER},
    flood::{LINUX, Strangers, at_backend, at_clients, from_backend, from_clients},
    packets::Segment,
};

use crate::bystanders::{Moment, PORTIONS, attacked};

/// What a stranger says; `number` is as good as any.
type Kind = fn(Segment, number: u32) -> Segment;

/// Everything but a SYN.
const KINDS: [Kind; 8] = [
    |segment, number| segment.ack(number),
    |segment, _| segment.rst(),
    |segment, number| segment.rst().ack(number),
    |segment, number| segment.ack(number).payload(&HELLO),
    |segment, number| segment.ack(number).payload(&[0; 1400]),
    |segment, number| segment.fin().ack(number),
    |segment, number| segment.syn().ack(number).options(&LINUX),
    |segment, _| segment,
];
/// The start of a ServerHello: nobody asked for it.
const HELLO: [u8; 12] = [0x16, 3, 3, 0, 0x5a, 2, 0, 0, 0x56, 3, 3, 7];
/// Segments of each kind in a portion.
const EACH: usize = 12;
const N: u64 = (KINDS.len() * EACH * PORTIONS) as u64;

#[test]
fn floods_of_segments_without_a_flow_to_the_vip_fill_no_table_and_hurt_no_flow() -> Result<()> {
    attacked(92, |case, bystanders| {
        let run = case.run;
        let tap = at_clients(&run.lab)?;
        let mut strangers = Strangers::new(run.family);
        let mut frame = |index: usize| {
            let segment = strangers.segment();
            from_clients(&KINDS[index % KINDS.len()](segment, strangers.number()))
        };
        let frames = (0..N as usize).map(&mut frame).collect::<Result<Vec<_>>>()?;
        let portions: Vec<_> = frames.chunks(KINDS.len() * EACH).collect();
        bystanders.during(case, |now| tap.pour(portions[now.portion]).map(drop))?;
        // The gateway is young: they may be of connections that are older than it.
        let passed = case.counted(Counter::ForeignPassed)?;
        ensure!(passed > N / 2 && passed <= N, "{passed} of {N} passed");
        println!("{passed} of {N} segments of no flow passed");
        case.expect(&[(Counter::Syn, 2), (Counter::FlowEstablished, 2), (Counter::Learned, 1)])
    })
}

/// From a backend itself, and from the clients' side with a backend's address.
#[test]
fn floods_of_segments_without_a_flow_from_backends_fill_no_table_and_hurt_no_flow() -> Result<()> {
    attacked(93, |case, bystanders| {
        let run = case.run;
        let (outside, inside) = (at_clients(&run.lab)?, at_backend(&run.lab, FIRST)?);
        bystanders.during(case, |Moment { portion, .. }| {
            let (mut from_outside, mut from_inside) = (Vec::new(), Vec::new());
            for index in 0..KINDS.len() * EACH {
                let number = (portion * 4096 + index) as u32;
                let backend = if index % 2 == 0 { FIRST } else { OWNER };
                let client = (run.source(index), 20_000 + (number % 8192) as u16).into();
                let segment = Segment::new(
                    run.backend_address(backend),
                    client,
                    number.wrapping_mul(0x9e37_79b9),
                );
                let segment = KINDS[index % KINDS.len()](segment, number.wrapping_mul(0x85eb_ca6b));
                if backend == FIRST && portion % 2 == 0 {
                    from_inside.push(from_backend(FIRST, &segment)?);
                } else {
                    from_outside.push(from_clients(&segment)?);
                }
            }
            inside.pour(&from_inside)?;
            outside.pour(&from_outside).map(drop)
        })?;
        let (passed, translated) =
            (case.counted(Counter::BackendPassed)?, case.counted(Counter::NoFlowTranslated)?);
        ensure!(passed > N / 2 && translated == 0, "{passed} passed, {translated} translated");
        case.expect(&[(Counter::Syn, 2), (Counter::FlowEstablished, 2), (Counter::Learned, 1)])?;
        println!("of {N} segments of backends {passed} passed, {translated} were translated");
        case.expect(&[(Counter::SynAck, 2), (Counter::FlowReplaced, 0)])
    })
}
