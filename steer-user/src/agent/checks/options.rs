//! Backends of one pool that agree to different TCP options: a flow moves only to an owner that
//! agrees to all that the first backend agreed to.

use steer_common::shared::options;

use super::{Kind, Warning};
use crate::{
    agent::sweep::{Answers, Opened},
    report::{BackendReport, Backends, VipReport},
    service::Service,
};

/// So many answers of one backend, all alike, tell what it agrees to.
const ANSWERS: u32 = 32;

/// The backends that lack what another one of their pool has.
///
/// Servers that are set up alike never show it: a backend must have declined an option each time
/// that a SYN of the last three minutes offered it, 32 times or more, while another one agreed as
/// often and never declined. What a server declines to one client, or while it answers with SYN
/// cookies, it agrees to with others. Where nothing is moved AccECN stays in the SYNs
/// (`mode = "observe"`), which servers of several kernels answer differently: there ECN does not
/// count.
pub(super) fn warnings(vips: &[VipReport], backends: &Backends, opened: &Opened) -> Vec<Warning> {
    let of_pool = |vip: &VipReport| {
        let members = backends.backends.iter().filter(|backend| backend.vip == vip.address);
        let told: Vec<_> =
            members.map(|b| (b, opened.agreed(b.id).answers().map(always))).collect();
        let lacking = told.iter().filter_map(|(backend, habits)| {
            let lacks = |at: &usize| habits[*at] == Some(false);
            let counts =
                |at: &usize| vip.mode != "observe" || options::WORDS[*at].0 != options::ECN;
            let has = |at: &usize| told.iter().find(|(_, other)| other[*at] == Some(true));
            let bits = (0..options::WORDS.len()).filter(|at| counts(at) && lacks(at));
            let bits: Vec<_> = bits.filter(|at| has(at).is_some()).collect();
            let (other, _) = has(bits.first()?)?;
            let words: Vec<_> = bits.iter().map(|at| options::WORDS[*at].1).collect();
            Some(warning(vip.address, backend, &words, other))
        });
        lacking.collect::<Vec<_>>()
    };
    vips.iter().flat_map(of_pool).collect()
}

/// What a backend always says, where it is known and always the same.
fn always(answers: Answers) -> Option<bool> {
    match answers {
        Answers { yes: ANSWERS.., no: 0 } => Some(true),
        Answers { yes: 0, no: ANSWERS.. } => Some(false),
        Answers { .. } => None,
    }
}

fn warning(
    service: Service,
    lacking: &BackendReport,
    words: &[&str],
    other: &BackendReport,
) -> Warning {
    let text = format!(
        "{}: {} does not agree to the TCP options {} where {} does: no flow that has them is moved to it \
         (owner-incompatible); set the same on all backends",
        service.titled(),
        lacking.address,
        words.join(", "),
        other.address,
    );
    Warning::new(Kind::OptionsDiffer, text)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const ALL: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE | options::ECN;

    /// What is said of two backends, by what each agreed to, how often.
    fn said(mode: &str, of_each: [&[(u8, u32)]; 2]) -> Vec<Warning> {
        let service: Service = "web".parse().unwrap();
        let vip = VipReport {
            id: 3,
            address: service,
            also: Vec::new(),
            mode: mode.to_owned(),
            backends: 2,
            backends_up: 2,
            open_flows: None,
            session_timeout_seconds: 600,
        };
        let backend = |id: u8| BackendReport {
            id: id.into(),
            address: SocketAddr::from(([10, 0, 0, id], 443)),
            vip: service,
            ..BackendReport::idle()
        };
        let mut opened = Opened::default();
        for (id, answers) in (0..).zip(of_each) {
            let of = opened.agreed_mut(id);
            for (agreed, n) in answers {
                (0..*n).for_each(|_| of.note(ALL, *agreed));
            }
        }
        let backends = Backends { counted_seconds: None, backends: vec![backend(0), backend(1)] };
        warnings(&[vip], &backends, &opened)
    }

    #[test]
    fn who_always_declines_what_another_one_always_agrees_to_is_named_with_the_options() {
        let lacks = ALL & !options::TIMESTAMPS & !options::ECN;
        let told = said("steer", [&[(ALL, 32)], &[(lacks, 32)]]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].kind, Kind::OptionsDiffer);
        let begin = "pool web: 10.0.0.1:443 does not agree to the TCP options timestamps, ecn where \
                     10.0.0.0:443 does: ";
        assert!(told[0].text.starts_with(begin), "{}", told[0]);
        // Each may lack something of the other.
        let both = [&[(options::SACK, 40)][..], &[(options::ECN, 40)]];
        assert_eq!(said("steer", both).len(), 2);
    }

    #[test]
    fn what_is_declined_now_and_then_or_by_all_or_seldom_is_no_difference() {
        let none = Vec::<Warning>::new();
        assert_eq!(said("steer", [&[(ALL, 900)], &[(ALL, 1), (0, 900)]]), none, "SYN cookies");
        assert_eq!(said("steer", [&[(ALL, 900), (0, 1)], &[(0, 900)]]), none);
        assert_eq!(said("steer", [&[(0, 900)], &[(0, 900)]]), none, "alike");
        assert_eq!(said("steer", [&[(ALL, 31)], &[(0, 900)]]), none, "few answers");
        assert_eq!(said("steer", [&[(ALL, 900)], &[(0, 31)]]), none, "few answers");
        let no_ecn = [&[(ALL, 900)][..], &[(ALL & !options::ECN, 900)]];
        assert_eq!(said("observe", no_ecn), none, "AccECN");
        assert_eq!(said("steer", no_ecn).len(), 1);
    }
}
