//! What the service manager is told (sd_notify(3)); without one, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often it wants to hear that the agent works; `None`: never.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The agent serves.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The agent's main loop turns.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// A configuration is judged, and then put in force.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("read the clock for the service manager: {error}"),
    }
}

/// The agent was told to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("notify the service manager: {error}");
    }
}
