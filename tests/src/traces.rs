//! What steer leaves on a machine: pins, programs on interfaces, addresses.

use std::fs;

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::{
    agent::Agent,
    scenario::Run,
    topology::{Family, vip},
};

/// All of it, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traces {
    /// Names below the pin directory, in order.
    pub pins: Vec<String>,
    /// How often a TC program of steer sits at the ingress of each of the gateway's interfaces.
    pub tc: Vec<usize>,
    /// Whether an XDP program of steer sits there.
    pub xdp: Vec<bool>,
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
            let of = links.split_once(&format!(": {name}@")).map_or("", |(_, rest)| rest);
            of.split("\n    link/").next().is_some_and(|first| first.contains(" xdp "))
        };
        Ok(Self {
            pins: pins(steer)?,
            tc: interfaces.iter().map(|name| gateway.run(|| n_programs(name))).collect::<Result<_>>()?,
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
        ensure!(self.pins.is_empty() && !programs && self.vips.is_empty(), "steer left {self:?}");
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

/// TC programs by links (Linux 6.6 and newer, on which these tests run).
fn n_programs(interface: &str) -> Result<usize> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    Ok(programs.iter().filter(|program| program.name_as_str() == Some("steer_tc")).count())
}
