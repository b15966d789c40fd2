//! Whether the programs are where they belong, and who else is there.

use std::net::SocketAddr;

use super::{Kind, Warning};
use crate::plane::{self, LinkReport, LinkState, PinDir};

/// What is wrong with the links of a gateway, programs of others in front of its own, and other gateways beside it.
pub fn attached(dir: &PinDir, vips: &[SocketAddr]) -> Vec<Warning> {
    let links = plane::links(dir);
    let mut warnings = links.iter().filter_map(detached).collect::<Vec<_>>();
    let foreign = plane::foreign_programs(dir);
    warnings.extend(foreign.iter().map(|program| Warning::new(Kind::OtherProgram, program.to_string())));
    warnings.extend(plane::shared(dir, vips).into_iter().map(|text| Warning::new(Kind::OtherGateway, text)));
    warnings
}

/// An interface that is gone has a warning of its own.
fn detached(link: &LinkReport) -> Option<Warning> {
    let LinkReport { interface, kind, state } = link;
    let what = match state {
        LinkState::Attached | LinkState::Gone => return None,
        LinkState::Detached => "is not attached: somebody detached it, or the interface is a new one".to_owned(),
        LinkState::Renamed(now) => format!("is attached to what is named {now} now: give the interface its name again"),
    };
    Some(Warning::new(Kind::Detached, format!("{interface}: the {} program {what}", kind.word())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_where_it_belongs_is_named_with_its_interface() {
        let link = |state| LinkReport { interface: "eth0".into(), kind: plane::Kind::Tc, state };
        assert_eq!(detached(&link(LinkState::Attached)), None);
        let text = detached(&link(LinkState::Detached)).unwrap().text;
        assert!(text.starts_with("eth0: the tc program is not attached"), "{text}");
        let text = detached(&link(LinkState::Renamed("wan".into()))).unwrap().text;
        assert!(text.contains("named wan now"), "{text}");
    }
}
