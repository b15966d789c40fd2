//! ICMP errors about live flows, made up by somebody who does not see them.

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{FIRST, OWNER},
    icmp_errors::{Teller, Trouble},
};

use crate::bystanders::{Moment, PORTIONS, attacked, record};

/// Host unreachable, port unreachable (of ICMP and of ICMPv6), and a link that takes next to
/// nothing.
const TROUBLES: [Trouble; 4] = [
    Trouble::Unreachable(1),
    Trouble::Unreachable(3),
    Trouble::Unreachable(4),
    Trouble::TooBig(600),
];
/// How far a number is from one that the flow uses. The first lie outside of what the gateway
/// believes; the last it believes and translates, and the endpoint does not.
const OFF: [u32; 4] = [1 << 25, 1 << 30, 2 << 30, 3 << 30];
const NEAR: u32 = 8 << 20;

#[test]
fn blind_icmp_errors_neither_close_nor_slow_a_flow() -> Result<()> {
    attacked(102, |case, bystanders| {
        let run = case.run;
        let (vip, source) = (run.vip(), case.dial.source);
        let outside = Teller::open(run.lab.client(), run.source(40), vip.ip())?;
        let [owner, first] = [OWNER, FIRST].map(|backend| {
            Teller::open(run.lab.backend(backend), run.backend_address(backend).ip(), source)
        });
        let (owner, first) = (owner?, first?);
        bystanders.during(case, |Moment { portion, client, holder }| {
            let flow = record(case, client)?;
            let (inside, backend) =
                (if holder == OWNER { &owner } else { &first }, run.backend_address(holder));
            let trouble = TROUBLES[portion % TROUBLES.len()];
            for off in OFF.into_iter().chain([NEAR]) {
                // About what the client sent, and about what the VIP sent.
                inside.tell(trouble, (client, backend), flow.client_next.wrapping_sub(off))?;
                outside.tell(
                    trouble,
                    (vip, client),
                    flow.server_next.wrapping_add(flow.delta).wrapping_sub(off),
                )?;
            }
            Ok(())
        })?;
        let (passed, translated) =
            (case.counted(Counter::IcmpPassed)?, case.counted(Counter::IcmpTranslated)?);
        let n = 2 * PORTIONS as u64;
        ensure!(
            passed >= OFF.len() as u64 * n && translated == n,
            "{passed} passed, {translated} translated"
        );
        for (end, backend) in [(0, None), (OWNER + 1, Some(OWNER)), (FIRST + 1, Some(FIRST))] {
            let ns = backend.map_or(run.lab.client(), |backend| run.lab.backend(backend));
            let to = if backend.is_some() { source } else { vip.ip() };
            ensure!(
                !ns.tool(&format!("ip route get {to}"))?.contains("mtu"),
                "end {end} believed a forgery"
            );
            ensure!(case.kernel(end, "TcpExt.OutOfWindowIcmps")? > 0, "end {end} was asked");
        }
        Ok(())
    })
}
