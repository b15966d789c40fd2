//! What is wrong around the gateway, named: mistakes in the wiring and settings of the machine that
//! cost connections while everything looks green.
//!
//! [`mod@machine`] and [`traffic`] tell it from what they find at one moment; [`watch`] looks every
//! few seconds and adds what takes two looks to see. Log, metric and `steer status` say the same
//! sentences.

mod answers;
mod bridges;
mod ipsec;
mod machine;
mod options;
mod rotation;
mod source;
mod warning;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub use bridges::{ambiguous, bridges, netfilter, unseen};
pub(crate) use ipsec::policies;
pub use machine::{Machine, machine, programs};
pub use warning::{Kind, Warning};
pub(super) use watch::{Watched, run};

use crate::{
    report::{BackendState, Backends, Keys, LayoutOrigin, VipReport},
    service::Service,
};

/// What is wrong right now, and how far it went, for all who ask the agent.
#[derive(Clone, Default, Debug)]
pub struct Standing {
    warnings: Arc<Mutex<BTreeSet<Warning>>>,
    splices_high: Arc<AtomicU64>,
}

impl Standing {
    /// What is wrong now.
    pub fn all(&self) -> BTreeSet<Warning> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most splices that any look met.
    pub fn splices_high(&self) -> u64 {
        self.splices_high.load(Ordering::Relaxed)
    }

    fn note_splices(&self, splices: u64) {
        self.splices_high.fetch_max(splices, Ordering::Relaxed);
    }

    /// Notes what is wrong now, and logs what began and what ended: each once.
    fn set(&self, now: BTreeSet<Warning>) {
        let mut standing = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for began in now.difference(&standing) {
            log::warn!("{began}");
        }
        for ended in standing.difference(&now) {
            log::info!("no more: {ended}");
        }
        *standing = now;
    }
}

/// What pools and key names tell at one moment.
pub fn traffic(vips: &[VipReport], backends: &Backends, keys: &Keys) -> Vec<Warning> {
    let idle = vips.iter().filter(|vip| vip.backends_up == 0);
    let idle = idle.map(|vip| Warning::new(Kind::NoBackend, no_backend(&vip.address)));
    let silent = backends.backends.iter().filter(|backend| answers::never_came(backend));
    let silent = silent.map(answers::warning);
    let shared = shared_names(keys).into_iter().map(|text| Warning::new(Kind::SharedKeyName, text));
    idle.chain(silent).chain(shared).collect()
}

/// That nobody is left, as a sentence.
pub(super) fn no_backend(service: &Service) -> String {
    let then = match service {
        Service::Vip(_) => "no backend takes new flows",
        Service::Pool(_) => "no backend is up: no connection is moved",
    };
    format!("{}: {then}", service.titled())
}

/// Key names that do not steer because several backends use them, as one sentence for each VIP.
pub fn shared_names(keys: &Keys) -> Vec<String> {
    let mut vips = BTreeMap::<_, Vec<&str>>::new();
    // While the layout is searched, what several backends have may be no name.
    let searched = |vip| {
        keys.layouts.iter().any(|at| Some(at.vip) == vip && at.origin == LayoutOrigin::Searched)
    };
    for name in keys.names.iter().filter(|name| name.shared && !searched(name.vip)) {
        vips.entry(name.vip).or_default().push(&name.name);
    }
    let sentence = |(vip, names): (Option<Service>, Vec<&str>)| {
        let (vip, n) = (vip.map_or("VIP gone".to_owned(), |vip| vip.titled()), names.len());
        let first = names.first().copied().unwrap_or_default();
        format!(
            "{vip}: several backends use the same ticket keys, whose names do not steer ({n} names, {first} among \
             them): give each backend keys of its own (steer keys generate)"
        )
    };
    vips.into_iter().map(sentence).collect()
}

/// Backends of a pool that take new flows.
fn takers(backends: &Backends, vip: Service) -> usize {
    let takes = |state| state == BackendState::Up;
    backends.backends.iter().filter(|b| b.vip == vip && takes(b.state) && b.weight > 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_kind_is_the_same_everywhere_and_nobody_elses() {
        let words = Kind::ALL.map(Kind::word);
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn what_is_wrong_stands_until_it_is_not_any_more() {
        let standing = Standing::default();
        let wrong =
            BTreeSet::from([Warning::new(Kind::Forwarding, "a"), Warning::new(Kind::Ipsec, "b")]);
        standing.set(wrong.clone());
        assert_eq!(standing.all(), wrong);
        standing.set(BTreeSet::new());
        assert_eq!(standing.all(), BTreeSet::new());
    }
}
