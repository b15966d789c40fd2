//! Host and kernel walk the same options to the same end, whatever they are.

use anyhow::Result;
use steer_common::{
    counters::Counter,
    splice,
    wire::tcp::{MAX_STEPS, Step, Walker},
};
use steer_tests::{packets::judge_checksums, programs::Program};

use crate::{
    random::Random,
    world::{
        CLIENT_ISN, Ends, FIRST_ISN, Given, TC_DROP, TC_REDIRECT, World, XDP_DROP, XDP_PASS,
        XDP_REDIRECT, from_client, hex, shapes,
    },
};

const LAYOUTS: usize = 4000;

#[test]
fn random_layouts_become_what_the_hosts_walker_makes_of_them() -> Result<()> {
    let mut world = World::new()?;
    let mut random = Random(0x5eed_0001);
    let (mut n_refused, mut n_unfinished) = (0, 0);
    for index in 0..LAYOUTS {
        let ends = shapes()[index & 1];
        let options = random.layout();
        let wanted = on_host(&ends, &options);
        n_refused += usize::from(wanted.is_none());
        let sent = from_client(
            &ends
                .up(CLIENT_ISN.wrapping_add(1))
                .ack(FIRST_ISN.wrapping_add(1))
                .options(&options)
                .payload(b"odd"),
        );
        for program in [Program::Tc, Program::TcComplete, Program::Xdp] {
            world.prepare_for(program, &ends, &Given::flow(ends.spliced()))?;
            let ran = world.run(program, &sent)?;
            if program == Program::Xdp
                && ran.action == XDP_PASS
                && looks_unfinished(&mut world, &mut n_unfinished)?
            {
                assert_eq!(ran.frame, sent);
                continue;
            }
            let (drop, redirect) = if program == Program::Xdp {
                (XDP_DROP, XDP_REDIRECT)
            } else {
                (TC_DROP, TC_REDIRECT)
            };
            let shown = hex(&options);
            assert_eq!(
                ran.action,
                if wanted.is_some() { redirect } else { drop },
                "{program:?}: {shown}"
            );
            let Some(wanted) = &wanted else { continue };
            let at = if ends.client.is_ipv4() { 54 } else { 74 };
            assert_eq!(hex(&ran.frame[at..at + wanted.len()]), hex(wanted), "{program:?}: {shown}");
            judge_checksums(&ran.frame)?;
        }
    }
    assert!(
        n_refused > LAYOUTS / 50 && n_refused < LAYOUTS / 2,
        "{n_refused} of {LAYOUTS} refused"
    );
    Ok(())
}

/// Whether XDP took the checksum, which by chance equals the pseudo header's sum, for an unfinished
/// one: TC forwards it.
fn looks_unfinished(world: &mut World, known: &mut u64) -> Result<bool> {
    let count = world.loaded.plane.counter(Counter::XdpUnfinishedChecksum)?;
    Ok(count != std::mem::replace(known, count) && count <= 3)
}

/// The options as the host's walker translates them; `None` where it refuses.
fn on_host(ends: &Ends, options: &[u8]) -> Option<Vec<u8>> {
    let mut walker = Walker::empty();
    walker.bytes[..options.len()].copy_from_slice(options);
    walker.rewind(options.len() as u32);
    let edits = splice::to_owner(&ends.spliced().translation());
    for _ in 0..MAX_STEPS {
        match walker.translate(&edits) {
            Step::More => {}
            Step::Done => return Some(walker.bytes[..options.len()].to_vec()),
            Step::Malformed => return None,
        }
    }
    None
}

/// Up to 40 bytes of options.
trait Layout {
    fn layout(&mut self) -> Vec<u8>;
}

impl Layout for Random {
    /// Up to 40 bytes, a multiple of four: known options in any order, with a lie now and then.
    fn layout(&mut self) -> Vec<u8> {
        let len = 4 * self.next(11);
        let mut options = Vec::new();
        while options.len() < len {
            match self.next(16) {
                0..=4 => options.push(1),
                5..=8 => options.extend([&[8, 10][..], &self.bytes(8)].concat()),
                9..=11 => {
                    let n = 8 * (1 + self.next(4));
                    options.extend([&[5, 2 + n as u8][..], &self.bytes(n)].concat());
                }
                12 => options.extend([2, 4, 5, 180]),
                13 => {
                    let n = self.next(9);
                    options.extend(
                        [&[self.next(256) as u8, 2 + n as u8][..], &self.bytes(n)].concat(),
                    );
                }
                14 if self.next(4) == 0 => {
                    options.extend([self.next(256) as u8, self.next(256) as u8])
                }
                _ => options.push(if self.next(8) == 0 { 0 } else { 1 }),
            }
        }
        // What a full header cuts off is a lie about a length, which must be refused: keep few of
        // them.
        if options.len() > len && self.next(8) != 0 {
            options = [vec![1; 2], vec![8, 10], self.bytes(8)].concat();
        }
        options.truncate(len.clamp(12, 40) & !3);
        options.resize(options.len().div_ceil(4) * 4, 1);
        options
    }
}
