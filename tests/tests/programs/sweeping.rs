//! Tables of several batches: what goes is found while the table is walked.

use anyhow::{Context, Result};
use steer_common::{
    session::Kind,
    shared::{Session, SessionKey, Vip},
};
use steer_tests::{ends::shapes, programs::Loaded};
use steer_user::{
    agent::sweep,
    clock,
    config::Sizes,
    plane::Plane,
    report::{Matcher, Sessions},
};

/// Five batches, in a table that evicts none.
const SESSIONS: u32 = 20_000;
const SIZES: Sizes = Sizes {
    sessions: 1 << 15,
    flows: 1024,
    splices: 1024,
    legs: 64,
    handshakes: 1024,
    pending: 16,
    fast: 64,
};
const TIMEOUT: u32 = 60;

#[test]
fn a_sweep_removes_what_is_stale_and_nothing_else() -> Result<()> {
    let mut loaded = Loaded::load(&SIZES)?;
    let plane = &mut loaded.plane;
    let stale = |number| number % 3 == 0;
    fill(plane, |number| if stale(number) { TIMEOUT + 10 } else { 0 })?;
    let swept = sweep(plane)?;
    assert_eq!(
        (swept.sessions, swept.removed),
        (u64::from(SESSIONS - SESSIONS.div_ceil(3)), u64::from(SESSIONS.div_ceil(3)))
    );
    assert!(swept.named.contains(&3) && swept.named.len() == 1, "{:?}", swept.named);
    for number in 0..SESSIONS {
        assert_eq!(
            plane.sessions.find(&key(number)?)?.is_none(),
            stale(number),
            "session {number}"
        );
    }
    Ok(())
}

#[test]
fn sessions_are_removed_by_what_they_are_and_nothing_else() -> Result<()> {
    let mut loaded = Loaded::load(&SIZES)?;
    fill(&mut loaded.plane, |_| 0)?;
    let removed =
        Sessions::remove(&mut loaded.plane, &Matcher::default().of_kind(Some(Kind::Ticket)))?;
    assert_eq!(removed, u64::from(SESSIONS / 2));
    let left = Sessions::read(&loaded.plane, &Matcher::default(), 3)?;
    assert_eq!((left.total, left.sessions.len()), (u64::from(SESSIONS / 2), 3));
    assert!(left.sessions.iter().all(|session| session.kind == "session-id"), "{left:?}");
    Ok(())
}

/// Sessions of backend 3, of so many seconds ago.
fn fill(plane: &mut Plane, idle: impl Fn(u32) -> u32) -> Result<()> {
    let vip = Vip { id: 0, session_timeout: TIMEOUT, ..Vip::default() };
    plane.set_vip(&shapes()[0].served(), &vip)?;
    for number in 0..SESSIONS {
        let last_seen = clock::seconds().wrapping_sub(idle(number));
        let session = Session { owner: 3, first_seen: last_seen, last_seen, ..Session::default() };
        plane.sessions.insert(&key(number)?, &session)?;
    }
    Ok(())
}

/// Every other one is a ticket.
fn key(number: u32) -> Result<SessionKey> {
    let kind = if number.is_multiple_of(2) { Kind::SessionId } else { Kind::Ticket };
    SessionKey::new(0, kind, &number.to_ne_bytes()).context("make a key")
}
