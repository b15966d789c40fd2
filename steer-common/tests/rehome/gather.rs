//! What a client's data does: the exits of gathering, and the tries at a silent owner.

use steer_common::{
    counters::Counter,
    decide::Verdict,
    flow::State,
    rehome::{self, DataAct, Progress, REPEAT_NS},
    shared::Flow,
};

use crate::{BEFORE_DATA, LIMIT, OTHER, OWNER, OWNER_SYN_AT, flow};

/// A segment that brought something new: 60 bytes from the first on, too little to decide.
const GREW: Progress = Progress {
    offset: 0,
    grown: true,
    contiguous: 60,
    grown_at: 1_000_000_000,
    now: 1_000_000_000,
    verdict: Verdict::NeedMore,
    owner_tries: 3,
};

/// The first byte again, so long after anything new.
fn repeated(after: u64) -> Progress {
    Progress { grown: false, now: GREW.grown_at + after, ..GREW }
}

#[track_caller]
fn data_does(state: State, progress: Progress, act: DataAct) {
    assert_eq!(rehome::data(&flow(state), state, &progress), act, "{state:?} {progress:?}");
}

mod gathering {
    use super::*;

    #[test]
    fn too_little_to_decide_on_is_held() {
        for state in BEFORE_DATA {
            data_does(state, GREW, DataAct::Hold);
        }
    }

    #[test]
    fn data_ahead_of_a_hole_is_held() {
        for state in BEFORE_DATA {
            data_does(state, Progress { offset: 1460, contiguous: 0, ..GREW }, DataAct::Hold);
        }
    }

    #[test]
    fn first_exit_a_verdict_for_the_owner_opens_it() {
        for state in BEFORE_DATA {
            data_does(
                state,
                Progress { verdict: Verdict::Owner(OWNER), ..GREW },
                DataAct::OpenOwner(OWNER),
            );
        }
    }

    #[test]
    fn first_exit_a_verdict_for_the_first_backend_flushes_with_its_reason() {
        for reason in [Counter::SessionMiss, Counter::OwnerDown, Counter::NotTls] {
            for state in BEFORE_DATA {
                data_does(
                    state,
                    Progress { verdict: Verdict::First(reason), ..GREW },
                    DataAct::Flush(reason),
                );
            }
        }
    }

    #[test]
    fn second_exit_the_buffer_is_full() {
        let flow = Flow { first_window: u16::MAX, ..flow(State::Gather) };
        let at = |contiguous| rehome::data(&flow, State::Gather, &Progress { contiguous, ..GREW });
        assert_eq!(at(LIMIT - 1), DataAct::Hold);
        assert_eq!(at(LIMIT), DataAct::Flush(Counter::GatherLimit));
    }

    #[test]
    fn third_exit_the_first_backends_window_is_used_up() {
        data_does(State::Gather, Progress { contiguous: 7_999, ..GREW }, DataAct::Hold);
        data_does(
            State::Gather,
            Progress { contiguous: 8_000, ..GREW },
            DataAct::Flush(Counter::GatherWindow),
        );
    }

    #[test]
    fn fourth_exit_the_client_repeats_its_first_byte() {
        data_does(State::Gather, repeated(REPEAT_NS), DataAct::Flush(Counter::GatherStalled));
        data_does(State::Gather, repeated(30 * REPEAT_NS), DataAct::Flush(Counter::GatherStalled));
    }

    #[test]
    fn a_repeat_within_100_ms_is_a_probe_or_a_duplicate() {
        data_does(State::Gather, repeated(0), DataAct::Hold);
        data_does(State::Gather, repeated(REPEAT_NS - 1), DataAct::Hold);
    }

    #[test]
    fn a_repeat_that_brings_something_new_is_no_stall() {
        data_does(
            State::Gather,
            Progress { grown: true, ..repeated(30 * REPEAT_NS) },
            DataAct::Hold,
        );
    }

    #[test]
    fn a_repeat_of_later_bytes_is_no_stall() {
        data_does(State::Gather, Progress { offset: 1, ..repeated(30 * REPEAT_NS) }, DataAct::Hold);
    }

    #[test]
    fn a_stalled_client_is_still_decided_on_what_is_there() {
        let visible = Progress { verdict: Verdict::Owner(OWNER), ..repeated(REPEAT_NS) };
        data_does(State::Gather, visible, DataAct::OpenOwner(OWNER));
    }
}

mod waiting {
    use super::*;

    /// The client's first byte again, so long after the last SYN to the owner.
    fn repeat(after: u64) -> Progress {
        Progress { grown: false, contiguous: 300, now: OWNER_SYN_AT + after, ..GREW }
    }

    #[test]
    fn more_data_is_held() {
        data_does(State::Wait, Progress { offset: 300, ..repeat(30 * REPEAT_NS) }, DataAct::Hold);
    }

    #[test]
    fn a_tail_loss_probe_is_no_try() {
        data_does(State::Wait, repeat(9_000_000), DataAct::Hold);
        data_does(State::Wait, repeat(REPEAT_NS - 1), DataAct::Hold);
    }

    #[test]
    fn a_retransmission_tries_the_owner_again() {
        data_does(State::Wait, repeat(REPEAT_NS), DataAct::RepeatOwnerSyn);
    }

    #[test]
    fn a_retransmission_longer_than_before_is_a_try_too() {
        data_does(
            State::Wait,
            Progress { grown: true, ..repeat(REPEAT_NS) },
            DataAct::RepeatOwnerSyn,
        );
    }

    #[test]
    fn after_the_last_try_the_first_backend_gets_the_hello() {
        for (tries, act) in
            [(2, DataAct::RepeatOwnerSyn), (3, DataAct::Flush(Counter::OwnerSilent))]
        {
            let flow = Flow { owner_tries: tries, ..flow(State::Wait) };
            assert_eq!(rehome::data(&flow, State::Wait, &repeat(REPEAT_NS)), act);
        }
    }

    #[test]
    fn the_verdict_is_not_taken_twice() {
        data_does(
            State::Wait,
            Progress { verdict: Verdict::Owner(OTHER), ..repeat(0) },
            DataAct::Hold,
        );
        data_does(
            State::Wait,
            Progress { verdict: Verdict::First(Counter::OwnerDown), ..repeat(0) },
            DataAct::Hold,
        );
    }

    #[test]
    fn neither_limit_nor_window_ends_the_wait() {
        data_does(State::Wait, Progress { contiguous: LIMIT, ..repeat(0) }, DataAct::Hold);
    }
}
