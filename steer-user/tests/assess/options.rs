//! Members that agree to different TCP options: nothing moves between them.

use serde_json::{Value, json};

use crate::{
    assert_numbers, assess,
    capture::{A, Answer, B, Capture, Hello, SECOND, Syn},
};

const ID: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];
const X: &str = "192.0.2.1:40000";
const Y: &str = "192.0.2.2:40001";

/// MSS, SACK permitted, timestamps, window scale: as Linux sends them.
const ALL: Syn<'_> =
    Syn { bytes: &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7], ecn: true };
const NO_TIMESTAMPS: Syn<'_> = Syn { bytes: &[2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7], ecn: true };
const NO_SACK: Syn<'_> =
    Syn { bytes: &[2, 4, 5, 180, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7], ecn: true };
const NO_WINDOW_SCALE: Syn<'_> =
    Syn { bytes: &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0], ecn: true };
const NO_ECN: Syn<'_> = Syn { ecn: false, ..ALL };

/// A session of A is offered to B; both are offered all options and agree to these. Of B's answer
/// nothing is there the second time, if `lost`.
fn between(a: Syn<'_>, b: Syn<'_>, lost: bool) -> Value {
    let mut capture = Capture::default();
    let full = Hello::offering(&[]);
    for (after, member, agrees, id) in [(0, A, a, &ID), (SECOND, B, b, &OTHER)] {
        capture.open_with(after, (X, member), ALL, Some(agrees));
        capture.handshake(after, (X, member), full, Answer::Issues(id));
    }
    capture.open_with(2 * SECOND, (Y, B), ALL, Some(b).filter(|_| !lost));
    capture.handshake(2 * SECOND, (Y, B), Hello::offering(&ID), Answer::Issues(&[9; 32]));
    assess(&capture)
}

#[test]
fn a_session_whose_owner_lacks_an_option_of_the_dialled_member_would_not_have_been_kept() {
    for (a, word) in [
        (NO_TIMESTAMPS, "timestamps"),
        (NO_SACK, "sack"),
        (NO_WINDOW_SCALE, "window-scale"),
        (NO_ECN, "ecn"),
    ] {
        for lost in [false, true] {
            let report = between(a, ALL, lost);
            assert_numbers(
                &report,
                &[
                    ("/total/refused", 1),
                    ("/total/kept", 0),
                    ("/total/kept_at_most", 0),
                    ("/total/incompatible", 1),
                    ("/members/0/kept_for", 0),
                    ("/members/1/incompatible", 1),
                    ("/legs/moves", 0),
                ],
            );
            let pair = json!([{ "first": B, "owner": A, "options": [word], "refused": 1 }]);
            assert_eq!(report["incompatible"], pair, "{word}");
            let reasons = report["reasons"].as_array().expect("reasons");
            let refused = reasons.iter().find(|line| line["word"] == "owner-incompatible");
            assert_eq!(refused.expect("the reason")["refused"], 1);
        }
    }
}

#[test]
fn a_session_whose_owner_agrees_to_more_would_have_been_kept() {
    for b in [NO_TIMESTAMPS, NO_SACK, NO_WINDOW_SCALE, NO_ECN] {
        let report = between(ALL, b, false);
        assert_numbers(&report, &[("/total/kept", 1), ("/total/incompatible", 0)]);
        // The other way round it would not move, which nobody asked for.
        assert_eq!(report["incompatible"][0]["refused"], 0, "{report:#}");
        assert_eq!(report["incompatible"][0]["first"], A);
    }
    let report = between(ALL, ALL, false);
    assert_eq!((&report["total"]["kept"], &report["incompatible"]), (&json!(1), &json!([])));
}
