//! Answers that go round the gateway: a backend gets SYNs, and no SYN-ACK of it comes by here. Its
//! clients see no connection, while health checks, which are answered to the gateway itself, say
//! that all is well.

use std::{collections::HashMap, net::SocketAddr};

use super::{Kind, Warning};
use crate::{
    report::{BackendReport, BackendState, Backends},
    service::Service,
};

/// So many SYNs without a SYN-ACK are no loss any more: a client repeats its SYN four times in
/// seven seconds.
const SYNS: u64 = 5;

/// Whether no SYN-ACK ever came back from a backend that is there and got SYNs enough.
pub(super) fn never_came(backend: &BackendReport) -> bool {
    answers_checks(backend) && backend.syns >= SYNS && backend.syn_acks == 0
}

/// One that does not answer the gateway either is down, which is another matter; but in an inline
/// pool one is down for these very answers. Who is to get nothing need not answer.
fn answers_checks(backend: &BackendReport) -> bool {
    match backend.state {
        BackendState::Up | BackendState::Draining => true,
        BackendState::Down => backend.vip.address().is_none(),
        BackendState::Disabled | BackendState::Off | BackendState::Removed => false,
    }
}

pub(super) fn warning(backend: &BackendReport) -> Warning {
    let address = backend.address;
    let text = match backend.vip {
        Service::Vip(_) => format!(
            "{address} gets SYNs but no answer came back through here: the backends' way back to the clients must lead through \
             this gateway (their default route, or that to the clients)"
        ),
        Service::Pool(_) => format!(
            "{address} gets SYNs but no answer came back through here: it is down, or its answers go round this gateway; its \
             way back to those who send the SYNs (the clients, or a balancer that rewrites their addresses) must lead through here"
        ),
    };
    Warning::new(Kind::ReturnPath, text)
}

/// Follows what comes back from each backend.
#[derive(Default)]
pub(super) struct Answers(HashMap<SocketAddr, Seen>);

/// Of one backend.
#[derive(Clone, Copy)]
struct Seen {
    /// SYN-ACKs at the last look.
    syn_acks: u64,
    /// SYNs when the last SYN-ACK was seen.
    answered: u64,
    /// SYNs at the last look.
    syns: u64,
}

impl Answers {
    /// Those of which nothing comes back: the SYNs of a look before are not answered either.
    pub(super) fn look(&mut self, backends: &Backends) -> Vec<Warning> {
        self.0.retain(|address, _| {
            backends.backends.iter().any(|backend| backend.address == *address)
        });
        let silent = backends.backends.iter().filter(|backend| self.is_silent(backend));
        silent.map(warning).collect()
    }

    fn is_silent(&mut self, backend: &BackendReport) -> bool {
        let BackendReport { syns, syn_acks, .. } = *backend;
        // Of one that never answered all SYNs count, be they of the time before this agent.
        let answered = if syn_acks == 0 { 0 } else { syns };
        let first = Seen { syn_acks, answered, syns: answered };
        let seen = self.0.entry(backend.address).or_insert(first);
        if seen.syn_acks != syn_acks || syns < seen.answered {
            *seen = Seen { syn_acks, answered: syns, syns };
        }
        let unanswered = seen.syns.saturating_sub(seen.answered);
        seen.syns = syns;
        answers_checks(backend) && unanswered >= SYNS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(syns: u64, syn_acks: u64) -> BackendReport {
        BackendReport { syns, syn_acks, ..BackendReport::idle() }
    }

    /// Whether each look in turn finds it silent.
    fn looks(looks: &[(u64, u64)]) -> Vec<bool> {
        let mut answers = Answers::default();
        let look = |(syns, syn_acks): &(u64, u64)| {
            !answers
                .look(&Backends {
                    counted_seconds: None,
                    backends: vec![backend(*syns, *syn_acks)],
                })
                .is_empty()
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_backend_whose_answers_never_come_by_is_named_at_the_second_look() {
        assert_eq!(looks(&[(0, 0), (5, 0), (7, 0), (9, 0)]), [false, false, true, true]);
        assert!(
            never_came(&backend(5, 0))
                && !never_came(&backend(4, 0))
                && !never_came(&backend(500, 1))
        );
    }

    #[test]
    fn one_whose_answers_came_by_until_a_route_changed_is_named_too_and_forgiven_when_they_come_again()
     {
        assert_eq!(
            looks(&[(100, 90), (110, 90), (112, 90), (120, 91), (122, 91)]),
            [false, false, true, false, false]
        );
    }

    #[test]
    fn answers_that_are_on_their_way_are_waited_for() {
        assert_eq!(looks(&[(0, 0), (500, 480), (1000, 990), (1004, 990), (1004, 990)]), [false; 5]);
    }

    #[test]
    fn one_that_does_not_answer_its_checks_either_is_down_and_nothing_else() {
        let mut answers = Answers::default();
        let down = BackendReport { state: BackendState::Down, ..backend(50, 0) };
        for _ in 0..3 {
            assert_eq!(
                answers.look(&Backends { counted_seconds: None, backends: vec![down.clone()] }),
                []
            );
        }
        assert!(!never_came(&down));
    }
}
