//! Hook, address family and offloads: the settings that every case must hold in.

use std::env;

use anyhow::{Context, Result};

use crate::{
    agent::Hook,
    scenario::Scenario,
    topology::{Family, Offloads},
};

/// One combination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Which programs the gateway has.
    pub hook: Hook,
    /// What clients dial.
    pub family: Family,
    /// What the links leave to the receiver.
    pub offloads: Offloads,
}

/// The setting that every case runs in.
pub const PLAIN: Setting = Setting { hook: Hook::Tc, family: Family::V4, offloads: Offloads::On };

/// Hooks with the offloads that can be had with them: what XDP redirects into a veth is delivered
/// only with GRO on.
const LINKS: [(Hook, Offloads); 5] = [
    (Hook::Tc, Offloads::On),
    (Hook::Xdp, Offloads::ChecksumsOff),
    (Hook::Tc, Offloads::Off),
    (Hook::Xdp, Offloads::OnWithGro),
    (Hook::Tc, Offloads::ChecksumsOff),
];

impl Setting {
    /// The setting that a case's number picks; ten numbers in a row pick every one.
    pub fn numbered(number: usize) -> Self {
        let (hook, offloads) = LINKS[number % LINKS.len()];
        let family = if number.is_multiple_of(2) { Family::V6 } else { Family::V4 };
        Self { hook, family, offloads }
    }

    /// A scenario in this setting: the owner and one other backend.
    pub fn scenario(self) -> Scenario {
        Scenario::new(self.hook, self.family).offloads(self.offloads).backends(2)
    }

    /// The same with finished checksums, for cases that send frames of their own.
    #[must_use]
    pub fn finished(self) -> Self {
        let offloads = if self.hook == Hook::Xdp { Offloads::ChecksumsOff } else { self.offloads };
        Self { offloads, ..self }
    }

    /// The same on TC with nothing offloaded, for cases that count or lose packets of the wire.
    #[must_use]
    pub fn wire(self) -> Self {
        Self { hook: Hook::Tc, offloads: Offloads::Off, ..self }
    }
}

/// Whether every case shall run in every setting (STEER_TEST_ALL=1).
pub fn all() -> bool {
    env::var_os("STEER_TEST_ALL").is_some_and(|value| value == "1")
}

/// Runs a case on TC and IPv4, and in one more setting that its number picks; in every one with
/// STEER_TEST_ALL=1.
///
/// # Errors
/// Those of the case, with the setting.
pub fn in_settings(number: usize, case: impl Fn(Setting) -> Result<()>) -> Result<()> {
    match Setting::numbered(number) {
        PLAIN => run(&[PLAIN], case),
        other => run(&[PLAIN, other], case),
    }
}

/// Runs a slow case on TC and IPv4 only; in every setting with STEER_TEST_ALL=1.
///
/// # Errors
/// Those of the case, with the setting.
pub fn in_one_setting(case: impl Fn(Setting) -> Result<()>) -> Result<()> {
    run(&[PLAIN], case)
}

/// Runs a case in the one setting that its number picks; in every one with STEER_TEST_ALL=1. For
/// cases of which there is a row, so that over the row all settings are met.
///
/// # Errors
/// Those of the case, with the setting.
pub fn in_numbered_setting(number: usize, case: impl Fn(Setting) -> Result<()>) -> Result<()> {
    run(&[Setting::numbered(number)], case)
}

fn run(chosen: &[Setting], case: impl Fn(Setting) -> Result<()>) -> Result<()> {
    let every: Vec<_> = (0..2 * LINKS.len()).map(Setting::numbered).collect();
    for setting in if all() { &every } else { chosen } {
        // Seen when the case panics.
        println!("in the setting {setting:?}:");
        case(*setting).with_context(|| format!("in the setting {setting:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_numbers_in_a_row_pick_every_setting() {
        let picked: Vec<_> = (7..17).map(Setting::numbered).collect();
        for (index, setting) in picked.iter().enumerate() {
            assert!(!picked[..index].contains(setting), "{setting:?} twice");
        }
        assert!(picked.contains(&PLAIN));
    }
}
