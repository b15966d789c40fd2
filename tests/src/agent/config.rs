//! The steer.toml that an agent of the lab is given.

use std::{fmt::Write as _, path::Path};

use clap::ValueEnum;

use crate::topology::{BRIDGE, Family, Lab, Offloads, backend, second_vip, vip};

/// Which programs the gateway's interfaces get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Hook {
    /// TC only.
    Tc,
    /// XDP and TC.
    Xdp,
    /// As the agent chooses.
    #[value(skip)]
    Auto,
}

impl Hook {
    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Auto => "auto",
        }
    }

    /// What links are like that it can be had with: on XDP they finish their checksums as a wire
    /// does.
    pub fn offloads(self) -> Offloads {
        if self == Self::Xdp { Offloads::ChecksumsOff } else { Offloads::On }
    }
}

/// Where steer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Shape {
    /// It has the VIPs.
    #[default]
    Gateway,
    /// A balancer in front of it has them and dials the backends.
    Inline,
    /// As [`Shape::Inline`], and it is a bridge.
    Bridge,
}

impl Shape {
    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Inline => "inline",
            Self::Bridge => "bridge",
        }
    }
}

/// What the configuration says beyond the lab's addresses, as lines of TOML.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hook of every interface.
    pub hook: Hook,
    /// Whether there are VIPs or inline pools.
    pub shape: Shape,
    /// Lines at the top: `metrics = "127.0.0.1:9464"`.
    pub top: Vec<String>,
    /// Lines of `[sizes]`: `pending = 2`.
    pub sizes: Vec<String>,
    /// Lines of every `[[vip]]` or `[[pool]]`: `owner_tries = 2`.
    pub vip: Vec<String>,
    /// `exempt` of every `[[pool]]`: addresses and prefixes, each in the pool of its family.
    pub exempt: Vec<String>,
    /// Whether each `[[vip]]` has a second address.
    pub second_vips: bool,
    /// A line of one backend, by its index: `key_names = [..]`.
    pub backend: Vec<(usize, String)>,
    /// Lines of every `[vip.health]`: `enabled = false`. An inline pool is judged by what passes.
    pub health: Vec<String>,
    /// Lines of `[[bridge]]`: `vlans = [100]`.
    pub bridge: Vec<String>,
    /// Environment of the agent.
    pub environment: Vec<(String, String)>,
}

impl Settings {
    /// Everything as steer has it, on this hook; health checks fast enough for a test.
    pub fn new(hook: Hook) -> Self {
        let health = vec!["interval = \"200ms\"".to_owned(), "timeout = \"200ms\"".to_owned()];
        let (top, sizes, vip, backend) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (shape, exempt, environment) = (Shape::Gateway, Vec::new(), Vec::new());
        let (bridge, second_vips) = (Vec::new(), false);
        Self {
            hook,
            shape,
            top,
            sizes,
            vip,
            exempt,
            second_vips,
            backend,
            health,
            bridge,
            environment,
        }
    }
}

/// The file's text.
pub(super) fn text(lab: &Lab, settings: &Settings, pin_dir: &Path, socket: &Path) -> String {
    let mut text =
        format!("pin_dir = {pin_dir:?}\nsocket = {socket:?}\n{}\n", settings.top.join("\n"));
    if !settings.sizes.is_empty() {
        writeln!(text, "\n[sizes]\n{}", settings.sizes.join("\n")).unwrap_or_default();
    }
    let interfaces = lab.gateway_interfaces();
    if settings.shape == Shape::Bridge {
        let (outside, inside) = interfaces.split_at(1);
        let bridge = settings.bridge.join("\n");
        writeln!(
            text,
            "\n[[bridge]]\nname = \"{BRIDGE}\"\noutside = {outside:?}\ninside = {inside:?}\n{bridge}"
        )
        .unwrap_or_default();
    } else {
        let hook = settings.hook.word();
        for name in interfaces {
            writeln!(text, "\n[[interface]]\nname = \"{name}\"\nhook = \"{hook}\"")
                .unwrap_or_default();
        }
    }
    for family in [Family::V4, Family::V6] {
        text += &pool_table(family, lab.n_backends(), settings);
    }
    text
}

/// Name of the pool of a family, where pools have names.
pub fn pool_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "web4",
        Family::V6 => "web6",
    }
}

fn pool_table(family: Family, n_backends: usize, settings: &Settings) -> String {
    let says = |word: &str| settings.vip.iter().any(|line| line.starts_with(word));
    let lines = settings.vip.join("\n");
    let (table, mut text) = match settings.shape {
        Shape::Gateway if settings.second_vips => {
            let name = pool_name(family);
            let entrance = |at| format!("\n[[vip]]\naddress = \"{at}\"\npool = \"{name}\"\n");
            let vips = entrance(vip(family)) + &entrance(second_vip(family));
            ("pool", format!("{vips}\n[[pool]]\nname = \"{name}\"\n{lines}\n"))
        }
        Shape::Gateway => ("vip", format!("\n[[vip]]\naddress = \"{}\"\n{lines}\n", vip(family))),
        Shape::Inline | Shape::Bridge => {
            let (name, shape) = (pool_name(family), settings.shape.word());
            ("pool", format!("\n[[pool]]\nname = \"{name}\"\nshape = \"{shape}\"\n{lines}\n"))
        }
    };
    // Where a source leads stays as the test found it, however many flows it makes.
    if settings.shape == Shape::Gateway && !says("fallback") {
        text += "fallback = \"source\"\n";
    }
    let of_family = |text: &&String| text.contains(':') == (family == Family::V6);
    let exempt = settings.exempt.iter().filter(of_family).collect::<Vec<_>>();
    if !exempt.is_empty() {
        writeln!(text, "exempt = {exempt:?}").unwrap_or_default();
    }
    if settings.shape != Shape::Gateway && !says("mode") {
        text += "mode = \"steer\"\n";
    }
    if settings.shape == Shape::Gateway {
        writeln!(text, "\n[{table}.health]\n{}", settings.health.join("\n")).unwrap_or_default();
    }
    for index in 0..n_backends {
        writeln!(text, "\n[[{table}.backend]]\naddress = \"{}\"", backend(family, index))
            .unwrap_or_default();
        for (_, line) in settings.backend.iter().filter(|(of, _)| *of == index) {
            writeln!(text, "{line}").unwrap_or_default();
        }
    }
    text
}
