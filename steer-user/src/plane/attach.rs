//! Attaches the programs to interfaces, or takes over the links that an agent before left pinned.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        SchedClassifier, TcAttachType, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    util::KernelVersion,
};
use serde::{Deserialize, Serialize};

use super::{PinDir, Programs, clsact, sys};
use crate::crash::{Step, reached};

/// First kernel with tcx links.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The two places of an interface where a program sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TC ingress.
    Tc,
    /// XDP.
    Xdp,
}

impl Kind {
    /// The word in pin names, CLI and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Tc => "tc",
            Kind::Xdp => "xdp",
        }
    }

    /// The kind of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Kind::Tc, Kind::Xdp].into_iter().find(|kind| kind.word() == word)
    }
}

/// Whether an interface gets XDP besides TC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xdp {
    /// TC only.
    Never,
    /// XDP if the driver has it.
    May,
    /// XDP, or an error.
    Must,
}

/// What an interface is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The interface.
    pub interface: String,
    /// Whether it gets XDP.
    pub xdp: Xdp,
}

/// What an interface got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// Its index: another one under the same name is another interface.
    pub index: u32,
    /// Whether XDP runs there besides TC.
    pub xdp: bool,
}

impl Programs {
    /// Attaches to every interface, and detaches from those that are not asked for any more.
    pub fn attach(&mut self, dir: &PinDir, targets: &[Target]) -> Result<Vec<Attachment>> {
        for target in targets {
            self.attach_tc(dir, &target.interface)?;
            reached(Step::FirstAttached);
        }
        reached(Step::TcAttached);
        let attach_xdp = |target: &Target| {
            let xdp = self.attach_xdp_if_asked(dir, target)?;
            Ok(Attachment { index: require_interface(&target.interface)?, interface: target.interface.clone(), xdp })
        };
        let attached = targets.iter().map(attach_xdp).collect::<Result<Vec<_>>>()?;
        reached(Step::XdpAttached);
        detach_unasked(dir, &attached)?;
        reached(Step::UnaskedDetached);
        Ok(attached)
    }

    /// Attaches anew where an interface vanished and came back.
    pub fn reattach(&mut self, dir: &PinDir, attached: &mut [Attachment]) -> Result<()> {
        for attachment in attached {
            let Attachment { interface, index, xdp } = attachment;
            let Some(now) = ifindex(interface).filter(|now| now != index) else { continue };
            log::warn!("{interface}: attaching anew");
            self.attach_tc(dir, interface)?;
            if *xdp {
                self.attach_xdp(dir, interface)?;
            }
            *index = now;
        }
        Ok(())
    }

    fn attach_tc(&mut self, dir: &PinDir, interface: &str) -> Result<()> {
        require_interface(interface)?;
        let program = self.tc()?;
        if without_tcx() {
            return clsact::attach(program, dir, interface);
        }
        let pin = dir.link(interface, Kind::Tc);
        if is_live(&pin, interface) {
            let link = SchedClassifierLink::try_from(pinned(&pin)?).with_context(|| bad_pin(&pin))?;
            let id = program.attach_to_link(link).with_context(|| replacing(&pin))?;
            drop_fd(program.take_link(id).context("take the tc link")?.try_into());
            return Ok(());
        }
        let link = fresh_tcx(program, interface)?;
        pin_link(link, &pin)
    }

    fn attach_xdp_if_asked(&mut self, dir: &PinDir, target: &Target) -> Result<bool> {
        let Target { interface, xdp } = target;
        match xdp {
            Xdp::Never => Ok(false),
            Xdp::Must => self.attach_xdp(dir, interface).map(|()| true),
            Xdp::May => match self.attach_xdp(dir, interface) {
                Ok(()) => Ok(true),
                Err(error) => {
                    log::info!("{interface}: TC only ({error:#})");
                    Ok(false)
                }
            },
        }
    }

    fn attach_xdp(&mut self, dir: &PinDir, interface: &str) -> Result<()> {
        let program = self.xdp()?;
        let pin = dir.link(interface, Kind::Xdp);
        if is_live(&pin, interface) {
            let link = XdpLink::try_from(pinned(&pin)?).with_context(|| bad_pin(&pin))?;
            let id = program.attach_to_link(link).with_context(|| replacing(&pin))?;
            drop_fd(program.take_link(id).context("take the xdp link")?.try_into());
            return Ok(());
        }
        let attached = program.attach(interface, XdpMode::Driver);
        let id = attached.with_context(|| format!("attach XDP to {interface} in its driver"))?;
        let link = program.take_link(id).context("take the xdp link")?;
        let link = FdLink::try_from(link).context("make the xdp link one that can be pinned (Linux 5.9)")?;
        pin_link(link, &pin)
    }
}

fn fresh_tcx(program: &mut SchedClassifier, interface: &str) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(Default::default());
    let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
    let id = attached.with_context(|| format!("attach to the TC ingress of {interface}"))?;
    let link = program.take_link(id).context("take the tc link")?;
    FdLink::try_from(link).context("make the tc link one that can be pinned")
}

/// Pins a new link over what a link to a vanished interface may have left.
fn pin_link(link: FdLink, pin: &Path) -> Result<()> {
    remove_pin(pin)?;
    reached(Step::LinkMade);
    link.pin(pin).with_context(|| format!("pin {}", pin.display()))?;
    Ok(())
}

/// Closes our descriptor of a pinned link: the pin alone keeps it, so that removing the pin ends it.
fn drop_fd(link: Result<FdLink, aya::programs::links::LinkError>) {
    drop(link);
}

/// Removes the programs from interfaces that are not asked for.
fn detach_unasked(dir: &PinDir, attached: &[Attachment]) -> Result<()> {
    for (interface, kind, pin) in dir.links() {
        let asked = attached.iter().any(|a| a.interface == interface && (kind == Kind::Tc || a.xdp));
        if !asked {
            log::debug!("{interface}: detaching {}", kind.word());
            detach_pin(&pin)?;
        }
    }
    clsact::detach_unasked(dir, attached)
}

/// Removes the programs from every interface.
pub(super) fn detach_all(dir: &PinDir) -> Result<()> {
    detach_unasked(dir, &[])
}

/// Detaches a link, even while another process still holds it, and removes its pin.
fn detach_pin(pin: &Path) -> Result<()> {
    if let Err(error) = sys::detach_link(pin) {
        log::debug!("detach {}: {error}", pin.display());
    }
    remove_pin(pin)
}

fn remove_pin(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", pin.display())),
    }
}

fn pinned(pin: &Path) -> Result<FdLink> {
    let link = PinnedLink::from_pin(pin).with_context(|| format!("open the pinned link {}", pin.display()))?;
    Ok(FdLink::from(link))
}

/// Whether a pinned link is attached to the interface that now has this name.
fn is_live(pin: &Path, interface: &str) -> bool {
    matches!((sys::link_ifindex(pin), ifindex(interface)), (Ok(link), Some(index)) if link == index)
}

/// The index of an interface; `None` if there is none of this name.
pub fn ifindex(interface: &str) -> Option<u32> {
    sys::ifindex(interface)
}

fn require_interface(interface: &str) -> Result<u32> {
    ifindex(interface).with_context(|| format!("there is no interface {interface}"))
}

/// Whether this kernel attaches TC programs by filters.
pub(super) fn without_tcx() -> bool {
    !has_tcx()
}

fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel >= TCX)
}

fn bad_pin(pin: &Path) -> String {
    format!("take over {}, which is no link of ours", pin.display())
}

fn replacing(pin: &Path) -> String {
    format!("replace the program behind {}", pin.display())
}
