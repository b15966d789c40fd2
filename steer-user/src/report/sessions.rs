//! `steer sessions`. Identifiers are never shown whole: they link a client's connections.

use std::{cmp::Reverse, net::SocketAddr};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use steer_common::{
    session::Kind,
    shared::{Backend, Endpoint, Session, SessionKey, Vip},
};

use crate::{
    address::{endpoint, socket},
    clock,
    plane::Plane,
    service::Service,
};

/// Bytes of an identifier that are shown.
const SHOWN: usize = 4;

/// Sessions in the order of their last use, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sessions {
    /// How many there are, shown or not.
    pub total: u64,
    /// Those shown.
    pub sessions: Vec<SessionReport>,
}

/// One session and who holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionReport {
    /// First bytes of the identifier, hexadecimal.
    pub id: String,
    /// Length of the identifier, bytes.
    pub length: u8,
    /// What the identifier is: `session-id` or `ticket`.
    pub kind: String,
    /// The VIP it was learned at; absent when it is gone.
    pub vip: Option<Service>,
    /// `BackendId` of the owner.
    pub owner: u16,
    /// The owner's address; absent when it is forgotten.
    pub owner_address: Option<SocketAddr>,
    /// Seconds since it was learned.
    pub age_seconds: u32,
    /// Seconds since the owner last issued or accepted it.
    pub idle_seconds: u32,
    /// Seconds until it is forgotten if it is not used.
    pub expires_seconds: u32,
    /// How often the owner accepted it.
    pub uses: u32,
}

/// Which sessions are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matcher {
    prefix: Vec<u8>,
    /// Half a byte behind `prefix`.
    nibble: Option<u8>,
    owner: Option<SocketAddr>,
    vip: Option<Service>,
    kind: Option<Kind>,
}

impl Matcher {
    /// Those whose identifier starts with these hexadecimal digits, of this owner, at this VIP;
    /// what is absent does not matter.
    ///
    /// # Errors
    /// When there is no such backend or VIP, or the digits are none.
    pub fn new(
        plane: &Plane,
        prefix: Option<&str>,
        owner: Option<SocketAddr>,
        vip: Option<Service>,
    ) -> Result<Self> {
        let names = Names::read(plane)?;
        let known_by = |vip: Service| plane.known_by(&vip.endpoint()).map(|at| Service::of(&at));
        let vip = vip.map(known_by).transpose()?;
        if let Some(owner) = owner
            .filter(|owner| !names.backends.iter().any(|(_, b)| b.endpoint == endpoint(*owner)))
        {
            bail!("there is no backend {owner}");
        }
        let is_there = |vip: &Service| names.vips.iter().any(|(at, _)| *at == vip.endpoint());
        if let Some(vip) = vip.filter(|vip| !is_there(vip)) {
            bail!("there is no {}", vip.titled());
        }
        Ok(Self { owner, vip, ..Self::of_prefix(prefix.unwrap_or_default())? })
    }

    pub(super) fn of_prefix(prefix: &str) -> Result<Self> {
        let digits = prefix.chars().map(|digit| digit.to_digit(16).map(|value| value as u8));
        let Some(digits) = digits.collect::<Option<Vec<_>>>() else {
            bail!("{prefix} is no identifier; expected hexadecimal digits");
        };
        let pairs = digits.chunks_exact(2);
        let nibble = pairs.remainder().first().copied();
        let prefix =
            pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        Ok(Self { prefix, nibble, ..Self::default() })
    }

    /// Of those, the ones of this kind, if it is given.
    #[must_use]
    pub fn of_kind(self, kind: Option<Kind>) -> Self {
        Self { kind, ..self }
    }

    /// Whether an identifier starts with the digits.
    pub(super) fn starts(&self, id: &[u8]) -> bool {
        let nibble = |nibble: u8| id.get(self.prefix.len()).is_some_and(|byte| byte >> 4 == nibble);
        id.starts_with(&self.prefix) && self.nibble.is_none_or(nibble)
    }

    /// The digits, as far as they make bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.prefix
    }

    fn matches(&self, key: &SessionKey, session: &Session, names: &Names) -> bool {
        self.starts(key.bytes.get(..usize::from(key.len)).unwrap_or_default())
            && self.kind.is_none_or(|kind| key.kind == kind as u8)
            && self.owner.is_none_or(|owner| {
                names.owner(session.owner).is_some_and(|b| b.endpoint == endpoint(owner))
            })
            && self
                .vip
                .is_none_or(|vip| names.vip(key.vip).is_some_and(|(at, _)| *at == vip.endpoint()))
    }
}

impl Sessions {
    /// Reads the maps; shows at most `limit`.
    pub fn read(plane: &Plane, matcher: &Matcher, limit: usize) -> Result<Self> {
        let found = Self::find(plane, matcher, limit)?;
        Ok(Self { total: found.total, sessions: found.reports().collect() })
    }

    /// Finds them; what is told of each is made when it is asked for: of millions only keys and
    /// records are held.
    pub fn find(plane: &Plane, matcher: &Matcher, limit: usize) -> Result<FoundSessions> {
        let names = Names::read(plane)?;
        let mut latest = Latest { limit, n_offered: 0, found: Vec::new() };
        plane.sessions.for_each(|key, session| {
            if matcher.matches(&key, &session, &names) {
                latest.offer(key, session);
            }
        })?;
        Ok(FoundSessions {
            total: latest.n_offered,
            found: latest.sorted(),
            names,
            now: clock::seconds(),
        })
    }

    /// Removes them; returns how many.
    pub fn remove(plane: &mut Plane, matcher: &Matcher) -> Result<u64> {
        let names = Names::read(plane)?;
        plane.sessions.remove_stale(|key, session| matcher.matches(key, session, &names))
    }
}

/// Sessions that were found, in the order of their last use, newest first.
pub struct FoundSessions {
    /// How many there are, shown or not.
    pub total: u64,
    found: Vec<(SessionKey, Session)>,
    names: Names,
    now: u32,
}

impl FoundSessions {
    /// What is told of each that is shown.
    pub fn reports(&self) -> impl ExactSizeIterator<Item = SessionReport> {
        self.found
            .iter()
            .map(|(key, session)| SessionReport::new(key, session, &self.names, self.now))
    }
}

/// Those of all offered that were used last, at most `limit`: a table of millions is not collected
/// to show a hundred.
struct Latest {
    limit: usize,
    n_offered: u64,
    found: Vec<(SessionKey, Session)>,
}

impl Latest {
    /// Sessions held beyond `limit` until the oldest are let go.
    const SLACK: usize = 4096;

    fn offer(&mut self, key: SessionKey, session: Session) {
        self.n_offered += 1;
        self.found.push((key, session));
        if self.found.len() >= self.limit.saturating_add(Self::SLACK) {
            self.found
                .select_nth_unstable_by_key(self.limit, |(_, session)| Reverse(session.last_seen));
            self.found.truncate(self.limit);
        }
    }

    /// Newest first.
    fn sorted(mut self) -> Vec<(SessionKey, Session)> {
        self.found.sort_by_key(|(_, session)| Reverse(session.last_seen));
        self.found.truncate(self.limit);
        self.found
    }
}

/// What the numbers in a session stand for.
struct Names {
    backends: Vec<(u32, Backend)>,
    vips: Vec<(Endpoint, Vip)>,
}

impl Names {
    fn read(plane: &Plane) -> Result<Self> {
        Ok(Self { backends: plane.backends()?, vips: plane.vips()? })
    }

    fn owner(&self, id: u16) -> Option<&Backend> {
        self.backends.iter().find(|(other, _)| *other == u32::from(id)).map(|(_, backend)| backend)
    }

    fn vip(&self, id: u16) -> Option<&(Endpoint, Vip)> {
        self.vips.iter().find(|(_, vip)| vip.id == id)
    }
}

impl SessionReport {
    fn new(key: &SessionKey, session: &Session, names: &Names, now: u32) -> Self {
        let vip = names.vip(key.vip);
        let idle = clock::age(now, session.last_seen);
        let age = clock::age(now, session.first_seen);
        let left = vip.map_or(0, |(_, vip)| {
            let limit = if vip.session_limit == 0 {
                u32::MAX
            } else {
                vip.session_limit.saturating_sub(age)
            };
            vip.session_timeout.saturating_sub(idle).min(limit)
        });
        Self {
            id: key
                .bytes
                .iter()
                .take(SHOWN.min(key.len.into()))
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            length: key.len,
            kind: Kind::from_number(key.kind).map_or("unknown", Kind::word).to_owned(),
            vip: vip.map(|(at, _)| Service::of(at)),
            owner: session.owner,
            owner_address: names.owner(session.owner).map(|backend| socket(&backend.endpoint)),
            age_seconds: age,
            idle_seconds: idle,
            expires_seconds: left,
            uses: session.uses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { backends: Vec::new(), vips: Vec::new() }
    }

    fn key() -> SessionKey {
        SessionKey::new(0, Kind::SessionId, &[0xab, 0xcd, 0xef, 0x01, 0x23, 0x45]).unwrap()
    }

    #[track_caller]
    fn matches(prefix: &str) -> bool {
        Matcher::of_prefix(prefix).unwrap().matches(&key(), &Session::default(), &names())
    }

    #[test]
    fn a_session_is_found_by_any_number_of_digits() {
        assert!(matches("") && matches("a") && matches("abc") && matches("ABCDEF012345"));
        assert!(!matches("b") && !matches("abd") && !matches("abcdef01234500"));
    }

    #[test]
    fn a_session_is_found_by_its_kind() {
        for (kind, found) in
            [(None, true), (Some(Kind::SessionId), true), (Some(Kind::Ticket), false)]
        {
            let matcher = Matcher::default().of_kind(kind);
            assert_eq!(matcher.matches(&key(), &Session::default(), &names()), found);
        }
    }

    #[test]
    fn refuses_what_is_no_hexadecimal() {
        assert!(Matcher::of_prefix("xyz").is_err());
    }

    #[test]
    fn the_sessions_used_last_are_shown_newest_first_and_all_are_counted() {
        let mut latest = Latest { limit: 3, n_offered: 0, found: Vec::new() };
        // Every number below 10 007 once, in no order.
        for n in 0..10_007_u32 {
            latest.offer(key(), Session { last_seen: n * 5000 % 10_007, ..Session::default() });
            assert!(latest.found.len() < 3 + Latest::SLACK);
        }
        assert_eq!(latest.n_offered, 10_007);
        let shown =
            latest.sorted().into_iter().map(|(_, session)| session.last_seen).collect::<Vec<_>>();
        assert_eq!(shown, [10_006, 10_005, 10_004]);
    }

    #[test]
    fn an_identifier_is_never_shown_whole() {
        let report = SessionReport::new(&key(), &Session::default(), &names(), 0);
        assert_eq!((report.id.as_str(), report.length), ("abcdef01", 6));
    }
}
