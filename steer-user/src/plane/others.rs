//! Programs of others in front of ours: what one of them takes, redirects or lets pass for good,
//! steer never sees.

use std::fmt;

use aya::programs::loaded_programs;

use super::{
    Kind, PinDir,
    attach::{ifindex, without_tcx},
    clsact, netlink, sys,
};

/// A program of somebody else that sees packets of a managed interface before ours do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ForeignProgram {
    /// The interface.
    pub interface: String,
    /// Where it sits.
    pub kind: Kind,
    /// Its number in the kernel; of a filter, the filter's priority.
    pub id: u32,
    /// Its name, where the kernel tells it to this process.
    pub name: Option<String>,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, kind, id, name } = self;
        let what = match (kind, without_tcx()) {
            (Kind::Xdp, _) => format!("an XDP program of somebody else (id {id}"),
            (Kind::Tc, false) => format!("a TC program of somebody else (id {id}"),
            (Kind::Tc, true) => format!("a TC filter of somebody else (priority {id}"),
        };
        let name = name.as_ref().map_or(String::new(), |name| format!(", {name}"));
        write!(
            f,
            "{interface}: {what}{name}) runs in front of steer's: what it does not pass on, steer does not see"
        )
    }
}

/// Every program in front of ours at the managed interfaces, in order; at an interface that ours
/// are not attached to, every one. What the kernel does not tell is not there.
pub fn foreign_programs(dir: &PinDir) -> Vec<ForeignProgram> {
    if !dir.is_in_this_netns() {
        return Vec::new();
    }
    foreign_programs_at(dir, &dir.managed())
}

/// The same at these interfaces of this network namespace.
pub fn foreign_programs_at(dir: &PinDir, interfaces: &[String]) -> Vec<ForeignProgram> {
    let present = interfaces
        .iter()
        .filter_map(|name| Some((name.as_str(), ifindex(name)?)))
        .collect::<Vec<_>>();
    let mut found = xdp(dir, &present);
    for (interface, index) in &present {
        found.extend(if without_tcx() {
            filters(interface, *index)
        } else {
            tcx(dir, interface, *index)
        });
    }
    name(&mut found);
    found.sort();
    found
}

fn xdp(dir: &PinDir, present: &[(&str, u32)]) -> Vec<ForeignProgram> {
    let attached = netlink::xdp_programs().unwrap_or_default();
    let of = |(interface, index): &(&str, u32)| {
        let id = *attached.get(index)?;
        let ours = sys::link(&dir.link(interface, Kind::Xdp)).is_ok_and(|link| link.program == id);
        (!ours).then(|| ForeignProgram {
            interface: (*interface).to_owned(),
            kind: Kind::Xdp,
            id,
            name: None,
        })
    };
    present.iter().filter_map(of).collect()
}

fn tcx(dir: &PinDir, interface: &str, index: u32) -> Vec<ForeignProgram> {
    let ours = sys::link(&dir.link(interface, Kind::Tc)).ok();
    let chain = sys::tcx_ingress(index).unwrap_or_default();
    let in_front = chain.iter().take_while(|(_, link)| ours.is_none_or(|ours| ours.id != *link));
    let foreign = |(id, _): &(u32, u32)| ForeignProgram {
        interface: interface.to_owned(),
        kind: Kind::Tc,
        id: *id,
        name: None,
    };
    in_front.map(foreign).collect()
}

fn filters(interface: &str, index: u32) -> Vec<ForeignProgram> {
    let filters = netlink::ingress_filters(index).unwrap_or_default();
    let foreign = |filter: &netlink::Filter| ForeignProgram {
        interface: interface.to_owned(),
        kind: Kind::Tc,
        id: filter.priority.into(),
        name: None,
    };
    filters.iter().take_while(|filter| !clsact::is_ours(filter)).map(foreign).collect()
}

/// Fills in the names, which the kernel tells to those who may look at every program.
fn name(found: &mut [ForeignProgram]) {
    if found.is_empty() || without_tcx() {
        return;
    }
    for program in loaded_programs().flatten() {
        let named = found.iter_mut().filter(|foreign| foreign.id == program.id());
        named.for_each(|foreign| {
            foreign.name = program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_front_is_told_with_its_interface_number_and_name() {
        let program = |name: Option<&str>| ForeignProgram {
            interface: "eth0".into(),
            kind: Kind::Xdp,
            id: 12,
            name: name.map(str::to_owned),
        };
        let rest = "runs in front of steer's: what it does not pass on, steer does not see";
        assert_eq!(
            program(None).to_string(),
            format!("eth0: an XDP program of somebody else (id 12) {rest}")
        );
        let named = format!("eth0: an XDP program of somebody else (id 12, firewall) {rest}");
        assert_eq!(program(Some("firewall")).to_string(), named);
    }
}
