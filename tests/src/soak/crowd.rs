//! The clients: each has sessions of one kind and goes on one errand after the other, from any
//! address.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    dice::Dice,
    ledger::{Failure, Ledger, Seen, class},
};
use crate::{
    client::{Client, Connection, Dial, Handshake, Offer},
    payload,
    scenario::{N_SOURCES, Run},
};

/// Threads of clients, and the clients of each: of every kind of session two.
pub(super) const WORKERS: usize = 8;
const KINDS: [Offer; 6] = [
    Offer::SessionId,
    Offer::Ticket12,
    Offer::Ticket13,
    Offer::SessionId,
    Offer::Ticket12,
    Offer::Ticket13,
];
/// Bodies that are compared, bytes.
const SMALL: usize = 300_000;
const LARGE: usize = 4 << 20;
const UPLOAD: usize = 1 << 20;

/// What a client does on one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Errand {
    /// A short page.
    Visit,
    /// The same, without offering a session.
    Fresh,
    /// A file comes down.
    Download,
    /// A file goes up.
    Upload,
    /// The hello comes in pieces, with pauses.
    SlowHello,
    /// The connection rests for seconds, before its hello or before its request.
    Idle,
    /// The client resets the connection behind its handshake.
    Reset,
}

impl Errand {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Visit => "short page",
            Self::Fresh => "short page, no session offered",
            Self::Download => "download of 0.3 or 4 MB",
            Self::Upload => "upload of 1 MB",
            Self::SlowHello => "hello in slow pieces",
            Self::Idle => "idle for seconds",
            Self::Reset => "reset by the client",
        }
    }

    /// Short ones are most of what happens.
    fn draw(dice: &mut Dice) -> Self {
        use Errand::{Download, Fresh, Idle, Reset, SlowHello, Upload, Visit};
        dice.one_of(&[
            Visit, Visit, Visit, Visit, Visit, Visit, Visit, Visit, Fresh, Fresh, Download,
            Download, Upload, SlowHello, Idle, Reset,
        ])
    }
}

/// A session that a client holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The backend that issued it.
    pub(super) server: usize,
    /// When it was issued.
    pub(super) since: Instant,
    /// When a backend last accepted it.
    pub(super) used: Instant,
}

/// A client and what it holds.
pub(super) struct Member {
    pub(super) client: Client,
    pub(super) offer: Offer,
    pub(super) held: Option<Held>,
}

/// What all clients share.
pub(super) struct Crowd<'a> {
    run: &'a Run,
    ledger: &'a Ledger,
    files: [(&'static str, usize, String); 2],
    upload: Vec<u8>,
}

/// What a connection showed before it ended, however it ended.
#[derive(Default)]
struct Trace {
    handshake: Option<Handshake>,
    server: Option<usize>,
    wrong: Option<String>,
}

impl<'a> Crowd<'a> {
    /// Puts the files in place.
    pub(super) fn gather(run: &'a Run, ledger: &'a Ledger) -> Result<Self> {
        let put = |path: &'static str, len: usize| -> Result<_> {
            let (body, mut sum) = (payload::bytes(len, len as u64), String::new());
            for server in &run.servers {
                sum = server.put(path.trim_start_matches("/files/"), &body)?;
            }
            Ok((path, len, sum))
        };
        let files = [put("/files/small", SMALL)?, put("/files/large", LARGE)?];
        Ok(Self { run, ledger, files, upload: payload::bytes(UPLOAD, 3) })
    }

    /// One thread's clients, until they are told to stop; returns them.
    pub(super) fn work(&self, number: usize, stop: &AtomicBool) -> Result<Vec<Member>> {
        self.run.lab.client().enter()?;
        let mut dice = Dice::new(number as u64 + 1);
        let new = |offer: &Offer| {
            Ok(Member { client: self.run.new_client_offering(*offer)?, offer: *offer, held: None })
        };
        let mut members = KINDS.iter().map(new).collect::<Result<Vec<_>>>()?;
        while !stop.load(Ordering::Relaxed) {
            for member in members.iter_mut().filter(|_| !stop.load(Ordering::Relaxed)) {
                self.go(member, Errand::draw(&mut dice), &mut dice, number);
            }
        }
        Ok(members)
    }

    /// One errand, noted.
    fn go(&self, member: &mut Member, errand: Errand, dice: &mut Dice, number: usize) {
        // What TLS 1.3 left over of older tickets would be offered next, and nobody knew whose it
        // is.
        if errand == Errand::Fresh || member.held.is_none() {
            member.client.forget();
        }
        let (began, mut trace) = (Instant::now(), Trace::default());
        let done = self.errand(&member.client, errand, dice, number, &mut trace);
        let (ended, server) = (Instant::now(), trace.server);
        let seen = match (done, trace.wrong, &trace.handshake) {
            (_, Some(wrong), _) => Seen::Wrong(wrong),
            (Err(error), ..) => {
                let text = format!("{error:#}");
                Seen::Failed(Failure { errand, began, ended, server, class: class(&error), text })
            }
            (Ok(()), None, handshake) => {
                let of = |what: fn(&Handshake) -> bool| handshake.as_ref().is_some_and(what);
                Seen::Done { offered: of(|h| h.offered), resumed: of(|h| h.resumed) }
            }
        };
        member.learn(errand, &seen, server);
        self.ledger.note(errand, seen);
    }

    fn errand(
        &self,
        client: &Client,
        errand: Errand,
        dice: &mut Dice,
        number: usize,
        trace: &mut Trace,
    ) -> Result<()> {
        let mut connection = client.connect(&self.dial(errand, dice))?;
        trace.server = Some(self.run.backend_named(&connection.handshake.server)?);
        trace.handshake = Some(connection.handshake.clone());
        match errand {
            Errand::Reset => Ok(()),
            Errand::Download => self.download(&mut connection, dice, trace),
            Errand::Upload => self.upload(&mut connection, &format!("up-{number}"), trace),
            Errand::Idle => {
                thread::sleep(dice.millis(500, 5000));
                page(&mut connection, trace)
            }
            Errand::Visit | Errand::Fresh | Errand::SlowHello => page(&mut connection, trace),
        }
    }

    fn dial(&self, errand: Errand, dice: &mut Dice) -> Dial {
        let dial = self.run.dial(dice.below(N_SOURCES));
        match errand {
            Errand::Reset => Dial { reset: true, ..dial },
            Errand::Idle => Dial { idle: dice.millis(0, 2000), ..dial },
            Errand::SlowHello => {
                let cuts = vec![1 + dice.below(60), 70 + dice.below(120)];
                Dial { cuts, cut_pause: dice.millis(20, 400), ..dial }
            }
            Errand::Visit | Errand::Fresh | Errand::Download | Errand::Upload => dial,
        }
    }

    fn download(
        &self,
        connection: &mut Connection,
        dice: &mut Dice,
        trace: &mut Trace,
    ) -> Result<()> {
        let (path, len, sum) = &self.files[dice.below(self.files.len())];
        let response = connection.get(path)?;
        if response.sha256 != *sum {
            trace.wrong = Some(format!("{path}: {} bytes arrived changed", response.len));
        }
        self.ledger.note_bytes(*len as u64);
        Ok(())
    }

    fn upload(&self, connection: &mut Connection, name: &str, trace: &mut Trace) -> Result<()> {
        connection.put(&format!("/files/{name}"), &self.upload)?;
        let server = trace.server.map(|server| &self.run.servers[server]);
        if server.map(|server| server.uploaded(name)).transpose()?
            != Some(payload::sha256(&self.upload))
        {
            trace.wrong = Some(format!("{name}: the upload arrived changed"));
        }
        self.ledger.note_bytes(self.upload.len() as u64);
        Ok(())
    }
}

/// Asks for `/`: the server says who it is and whether it resumed.
fn page(connection: &mut Connection, trace: &mut Trace) -> Result<()> {
    let body = connection.get("/")?.text();
    let handshake = &connection.handshake;
    let reused = if handshake.resumed { "r" } else { "." };
    if body != format!("{} {reused} SUCCESS\n", handshake.server) {
        trace.wrong = Some(format!("the server answered {body:?} on {handshake:?}"));
    }
    Ok(())
}

impl Member {
    /// Draws from what was seen what session the client holds now.
    fn learn(&mut self, errand: Errand, seen: &Seen, server: Option<usize>) {
        let now = Instant::now();
        self.held = match (seen, server, self.held) {
            (Seen::Done { resumed: true, .. }, _, Some(held)) => Some(Held { used: now, ..held }),
            // Tickets of TLS 1.3 come behind the handshake: one that ends there has none.
            (Seen::Done { .. }, Some(_), _)
                if errand == Errand::Reset && self.offer == Offer::Ticket13 =>
            {
                None
            }
            // Behind tickets that were refused older ones may wait.
            (Seen::Done { offered: true, .. }, Some(_), _) if self.offer == Offer::Ticket13 => None,
            (Seen::Done { .. }, Some(server), _) => Some(Held { server, since: now, used: now }),
            _ => None,
        };
    }

    /// Whether its session was used less than `age` ago.
    pub(super) fn is_fresh(&self, age: Duration) -> bool {
        self.held.is_some_and(|held| held.used.elapsed() < age)
    }
}
