//! Attaches the programs to interfaces, or takes over the links that an agent before left pinned.
//!
//! Whether a program is attached the link says, never its pin: a link lives on in its pin when its
//! interface is gone, or when somebody detached it. New links are made first, without a pin
//! ([`Programs::reserve`]): what cannot be attached is refused while nothing is changed, and an
//! agent that is killed leaves none of them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        SchedClassifier, TcAttachType, XdpMode,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    util::KernelVersion,
};
use serde::{Deserialize, Serialize};

use super::{PinDir, Programs, attachments, clsact, pin::NEXT, sys};
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
    /// Whether TC runs there.
    pub tc: bool,
    /// Whether XDP runs there besides TC.
    pub xdp: bool,
}

/// Links that are attached and not pinned yet: they end with this process, or when this is dropped.
#[derive(Default)]
pub struct Reserved {
    links: Vec<(String, Kind, FdLink)>,
    /// Where the same was tried and given up again, because these programs may not see packets yet.
    tried: Vec<(String, Kind)>,
}

impl Reserved {
    fn take(&mut self, interface: &str, kind: Kind) -> Option<FdLink> {
        let found = self.links.iter().position(|(name, of, _)| name == interface && *of == kind)?;
        Some(self.links.swap_remove(found).2)
    }
}

impl Programs {
    /// Attaches to every interface that no live link of this gateway is at, or where others came in
    /// front of it. Refuses what cannot be attached.
    pub fn reserve(&mut self, dir: &PinDir, targets: &[Target]) -> Result<Reserved> {
        let mut reserved = Reserved::default();
        for Target { interface, xdp } in targets {
            remove_pin(&aside(&dir.link(interface, Kind::Tc)))?;
            remove_pin(&aside(&dir.link(interface, Kind::Xdp)))?;
            let xdp = if is_live(&self.link(dir, interface, Kind::Xdp), interface) {
                Xdp::Never
            } else {
                *xdp
            };
            if let Some(link) = self.fresh_xdp_if_asked(interface, xdp)? {
                reserved.links.push((interface.clone(), Kind::Xdp, link));
            }
            if !without_tcx() && !is_first(&self.link(dir, interface, Kind::Tc), interface) {
                reserved.links.push((
                    interface.clone(),
                    Kind::Tc,
                    fresh_tcx(self.tc()?, interface)?,
                ));
            }
            reached(Step::LinkMade);
        }
        if self.copies() {
            // Their tables are not filled: what they wrote there now would be lost.
            reserved.tried =
                reserved.links.drain(..).map(|(interface, kind, _)| (interface, kind)).collect();
        }
        Ok(reserved)
    }

    /// Puts these programs behind every link of the gateway: those that are pinned, and those that
    /// were made before. An interface where that fails has none; who looks after links tries again.
    pub fn switch(
        &mut self,
        dir: &PinDir,
        mut reserved: Reserved,
        targets: &[Target],
    ) -> Vec<Attachment> {
        let mut attached = Vec::new();
        for Target { interface, xdp: _ } in targets {
            let tc = self.take_place(dir, interface, Kind::Tc, &mut reserved);
            attached.push(Attachment { interface: interface.clone(), tc, xdp: false });
            reached(Step::FirstAttached);
        }
        reached(Step::TcAttached);
        for (attachment, target) in attached.iter_mut().zip(targets) {
            if target.xdp != Xdp::Never {
                attachment.xdp = self.take_place(dir, &target.interface, Kind::Xdp, &mut reserved);
            }
        }
        reached(Step::XdpAttached);
        attached
    }

    /// Whether the program runs there now; what went wrong is logged.
    fn take_place(
        &mut self,
        dir: &PinDir,
        interface: &str,
        kind: Kind,
        reserved: &mut Reserved,
    ) -> bool {
        let pin = dir.link(interface, kind);
        let done = match reserved.take(interface, kind) {
            Some(link) => pin_link(link, &pin).map(|()| true),
            None if kind == Kind::Tc && without_tcx() => {
                self.tc().and_then(|program| clsact::attach(program, dir, interface)).map(|()| true)
            }
            None if reserved.tried.iter().any(|(name, of)| name == interface && *of == kind) => {
                self.attach_anew(dir, interface, kind).map(|()| true)
            }
            None if is_live(&pin, interface) => self.replace(&pin, kind).map(|()| true),
            // XDP that may be there and is not.
            None => Ok(false),
        };
        done.unwrap_or_else(|error| {
            log::error!("{interface}: {error:#}");
            false
        })
    }

    /// Puts the program of this kind behind a pinned link.
    fn replace(&mut self, pin: &Path, kind: Kind) -> Result<()> {
        match kind {
            Kind::Tc => {
                let program = self.tc()?;
                let link =
                    SchedClassifierLink::try_from(pinned(pin)?).with_context(|| bad_pin(pin))?;
                let id = program.attach_to_link(link).with_context(|| replacing(pin))?;
                drop_fd(program.take_link(id).context("take the tc link")?.try_into());
            }
            Kind::Xdp => {
                let program = self.xdp()?;
                let link = XdpLink::try_from(pinned(pin)?).with_context(|| bad_pin(pin))?;
                let id = program.attach_to_link(link).with_context(|| replacing(pin))?;
                drop_fd(program.take_link(id).context("take the xdp link")?.try_into());
            }
        }
        Ok(())
    }

    /// Attaches a program anew to an interface that is there, where no live link of it is.
    pub fn attach_anew(&mut self, dir: &PinDir, interface: &str, kind: Kind) -> Result<()> {
        require_interface(interface)?;
        match kind {
            Kind::Tc if without_tcx() => clsact::attach(self.tc()?, dir, interface),
            Kind::Tc => pin_link(fresh_tcx(self.tc()?, interface)?, &dir.link(interface, kind)),
            Kind::Xdp => pin_link(self.fresh_xdp(interface)?, &dir.link(interface, kind)),
        }
    }

    fn fresh_xdp_if_asked(&mut self, interface: &str, xdp: Xdp) -> Result<Option<FdLink>> {
        match xdp {
            Xdp::Never => Ok(None),
            Xdp::Must => self.fresh_xdp(interface).map(Some),
            Xdp::May => match self.fresh_xdp(interface) {
                Ok(link) => Ok(Some(link)),
                Err(error) => {
                    log::info!("{interface}: TC only ({error:#})");
                    Ok(None)
                }
            },
        }
    }

    fn fresh_xdp(&mut self, interface: &str) -> Result<FdLink> {
        let program = self.xdp()?;
        let attached = program.attach(interface, XdpMode::Driver);
        let id = attached.with_context(|| attaching_xdp(interface))?;
        let link = program.take_link(id).context("take the xdp link")?;
        FdLink::try_from(link).context("make the xdp link one that can be pinned (Linux 5.9)")
    }
}

/// What is being done when a driver refuses XDP.
pub(crate) fn attaching_xdp(interface: &str) -> String {
    format!("attach XDP to {interface} in its driver")
}

fn fresh_tcx(program: &mut SchedClassifier, interface: &str) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
    let id = attached.with_context(|| format!("attach to the TC ingress of {interface}"))?;
    let link = program.take_link(id).context("take the tc link")?;
    FdLink::try_from(link).context("make the tc link one that can be pinned")
}

/// Pins a new link in the place of what was pinned there before, at once.
fn pin_link(link: FdLink, pin: &Path) -> Result<()> {
    let aside = aside(pin);
    remove_pin(&aside)?;
    link.pin(&aside).with_context(|| format!("pin {}", aside.display()))?;
    fs::rename(&aside, pin).with_context(|| format!("pin {}", pin.display()))
}

/// Where a link is pinned before it takes the place of another.
fn aside(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push(NEXT);
    name.into()
}

/// Closes our descriptor of a pinned link: the pin alone keeps it, so that removing the pin ends
/// it.
fn drop_fd(link: Result<FdLink, aya::programs::links::LinkError>) {
    drop(link);
}

/// Removes the programs from interfaces that are not asked for, and XDP where that is not; `asked`
/// are the interfaces and whether XDP is asked for.
pub(crate) fn detach_unasked(dir: &PinDir, asked: &[(&str, bool)]) -> Result<()> {
    for (interface, kind, pin) in dir.links() {
        let is_asked =
            asked.iter().any(|(name, xdp)| *name == interface && (kind == Kind::Tc || *xdp));
        if !is_asked {
            log::debug!("{interface}: detaching {}", kind.word());
            detach_pin(&pin)?;
        }
    }
    clsact::detach_unasked(dir, asked)
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
    let link = PinnedLink::from_pin(pin)
        .with_context(|| format!("open the pinned link {}", pin.display()))?;
    Ok(FdLink::from(link))
}

/// Whether a pinned link is attached to the interface that now has this name.
fn is_live(pin: &Path, interface: &str) -> bool {
    matches!((sys::link(pin), ifindex(interface)), (Ok(link), Some(index)) if link.ifindex == index)
}

/// Whether it is that, and the first in the chain of TC programs there.
fn is_first(pin: &Path, interface: &str) -> bool {
    let (Ok(link), Some(index)) = (sys::link(pin), ifindex(interface)) else { return false };
    let chain = sys::tcx_ingress(index).unwrap_or_default();
    link.ifindex == index && chain.first().is_none_or(|(_, first)| *first == link.id)
}

/// How it stands with a program that the gateway has, or is to have, at an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// It is attached.
    Attached,
    /// The interface is there and the program is not: somebody detached it, or the interface is a
    /// new one of this name.
    Detached,
    /// There is no interface of this name.
    Gone,
    /// It is attached; the interface has another name now.
    Renamed(String),
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.write_str("attached"),
            Self::Detached => f.write_str("detached"),
            Self::Gone => f.write_str("interface gone"),
            Self::Renamed(now) => write!(f, "interface renamed to {now}"),
        }
    }
}

/// One program at one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkReport {
    /// The interface, by the name it has in the configuration.
    pub interface: String,
    /// Which program.
    pub kind: Kind,
    /// How it stands with it.
    pub state: LinkState,
}

/// TC at every interface that the configuration names or that has a program, and XDP where it was
/// attached.
pub fn links(dir: &PinDir) -> Vec<LinkReport> {
    let own_netns = dir.is_in_this_netns();
    let mut interfaces = dir.managed();
    interfaces.extend(attachments(dir).into_iter().map(|(interface, _)| interface));
    interfaces.sort();
    interfaces.dedup();
    let mut links = Vec::new();
    for interface in interfaces {
        for kind in [Kind::Tc, Kind::Xdp] {
            if kind == Kind::Tc || dir.link(&interface, kind).exists() {
                let state = state(dir, &interface, kind, own_netns);
                links.push(LinkReport { interface: interface.clone(), kind, state });
            }
        }
    }
    links
}

/// How it stands with one program at one interface; in another network namespace only the link is
/// asked.
pub(crate) fn state(dir: &PinDir, interface: &str, kind: Kind, own_netns: bool) -> LinkState {
    if kind == Kind::Tc && without_tcx() {
        return clsact::state(dir, interface);
    }
    let attached_to = sys::link(&dir.link(interface, kind)).map_or(0, |link| link.ifindex);
    match ifindex(interface) {
        _ if !own_netns => {
            if attached_to == 0 {
                LinkState::Detached
            } else {
                LinkState::Attached
            }
        }
        Some(index) if index == attached_to => LinkState::Attached,
        Some(_) => LinkState::Detached,
        None => sys::ifname(attached_to).map_or(LinkState::Gone, LinkState::Renamed),
    }
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
