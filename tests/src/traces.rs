//! What steer leaves on a machine: pins, programs and qdiscs on interfaces, addresses.

use std::fs;

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use steer_user::plane::kernel::Kernel;

use crate::{
    agent::Agent,
    netns::NetNs,
    scenario::Run,
    topology::{Family, vip},
};

/// The first kernel with links at the TC hooks.
const TCX: [u32; 3] = [6, 6, 0];

/// All of it, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traces {
    /// Names below the pin directory, in order.
    pub pins: Vec<String>,
    /// How often a TC program of steer sits at the ingress of each of the gateway's interfaces.
    pub tc: Vec<usize>,
    /// Whether an XDP program of steer sits there.
    pub xdp: Vec<bool>,
    /// Interfaces with a qdisc clsact, in which programs sit before Linux 6.6.
    pub clsact: Vec<String>,
    /// Which VIPs are addresses of the gateway.
    pub vips: Vec<Family>,
}

impl Traces {
    /// Looks at the gateway.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(run: &Run, steer: &Agent<'_>) -> Result<Self> {
        let gateway = run.lab.gateway();
        let interfaces = run.lab.gateway_interfaces();
        let links = gateway.tool("ip link show")?;
        let addresses = gateway.tool("ip address show")?;
        let xdp = |name: &String| {
            let of = |end| links.split_once(&format!(": {name}{end}")).map(|(_, rest)| rest);
            let of = of('@').or_else(|| of(':')).unwrap_or("");
            of.split("\n    link/").next().is_some_and(|first| first.contains(" xdp "))
        };
        let qdiscs = gateway.tool("tc qdisc show")?;
        let has_clsact =
            |name: &&String| qdiscs.contains(&format!("qdisc clsact ffff: dev {name} "));
        Ok(Self {
            pins: pins(steer)?,
            tc: interfaces.iter().map(|name| n_programs(gateway, name)).collect::<Result<_>>()?,
            clsact: interfaces.iter().filter(has_clsact).cloned().collect(),
            xdp: interfaces.iter().map(xdp).collect(),
            vips: [Family::V4, Family::V6]
                .into_iter()
                .filter(|family| addresses.contains(&format!(" {}/", vip(*family).ip())))
                .collect(),
        })
    }

    /// Expects nothing at all.
    ///
    /// # Errors
    /// With what there is.
    pub fn none(&self) -> Result<()> {
        let programs = self.tc.iter().any(|n| *n > 0) || self.xdp.iter().any(|is| *is);
        let other =
            [self.pins.is_empty(), self.clsact.is_empty(), self.vips.is_empty()].contains(&false);
        ensure!(!programs && !other, "steer left {self:?}");
        Ok(())
    }
}

fn pins(steer: &Agent<'_>) -> Result<Vec<String>> {
    let mut pins = Vec::new();
    if steer.pin_dir().exists() {
        for layout in fs::read_dir(steer.pin_dir())? {
            for pin in fs::read_dir(layout?.path())? {
                pins.push(pin?.file_name().to_string_lossy().into_owned());
            }
        }
        pins.push(".".to_owned());
    }
    pins.sort();
    Ok(pins)
}

/// TC programs of steer at an interface: by links since Linux 6.6, by filters before.
fn n_programs(gateway: &NetNs, interface: &str) -> Result<usize> {
    if Kernel::running().number()? < TCX {
        let filters = gateway.tool(&format!("tc filter show dev {interface} ingress"))?;
        return Ok(filters.lines().filter(|line| line.contains(" steer_tc ")).count());
    }
    let (_, programs) =
        gateway.run(|| Ok(SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?))?;
    Ok(programs.iter().filter(|program| program.name_as_str() == Some("steer_tc")).count())
}
