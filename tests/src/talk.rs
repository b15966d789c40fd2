//! Conversations over plain TCP whose both ends the test holds: either side speaks when it is told
//! to, and every byte that arrives is compared with what was said.
//!
//! A client begins with eight bytes that tell which conversation it is, so that both ends are found
//! together whatever addresses and ports they see. [`Peers`] are the servers, [`Conversation`] is
//! one connection, [`Crowd`] are many that go on until they are ended.

mod crowd;
mod end;
mod peers;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

pub use self::{crowd::Crowd, peers::Peers};
use self::{end::End, peers::Arrived};

/// Longest wait for what the other end said: several retransmissions.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// One connection, both of whose ends are here.
pub struct Conversation {
    client: End,
    server: End,
    /// Which server accepted it, as [`Peers::listen`] was told.
    pub server_name: usize,
    /// The client's address as the server sees it.
    pub seen_as: SocketAddr,
}

/// Who speaks, or ends first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The client.
    Client,
    /// The server.
    Server,
}

impl Who {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl Conversation {
    fn new(client: End, arrived: Arrived) -> Self {
        Self { client, server: arrived.end, server_name: arrived.server, seen_as: arrived.from }
    }

    /// The client's own address.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn client_address(&self) -> Result<SocketAddr> {
        self.client.local_address()
    }

    /// The MSS that the client's kernel goes by.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn client_mss(&self) -> Result<u32> {
        self.client.mss()
    }

    /// One side says so many bytes, and the other hears all that was said to it.
    ///
    /// # Errors
    /// When the connection is broken, what arrives is something else, or nothing arrives for
    /// [`PATIENCE`].
    pub fn say(&mut self, who: Who, len: usize) -> Result<()> {
        let (speaker, hearer) = self.ends(who);
        speaker.say(len).with_context(|| format!("the {who:?} speaks"))?;
        hearer
            .await_heard(speaker.said())
            .with_context(|| format!("the {who:?} said {} bytes", speaker.said()))
    }

    /// Both sides say so many bytes, the client first.
    ///
    /// # Errors
    /// As [`Conversation::say`].
    pub fn exchange(&mut self, len: usize) -> Result<()> {
        self.say(Who::Client, len)?;
        self.say(Who::Server, len)
    }

    /// Ends the conversation as it should end: each side says that it says no more, and hears so of
    /// the other.
    ///
    /// # Errors
    /// When one of them hears something else, a reset say.
    pub fn finish(mut self, first: Who) -> Result<()> {
        for who in [first, first.other()] {
            let (ends, hears) = self.ends(who);
            ends.shut_down()?;
            hears.await_end().with_context(|| format!("the {who:?} ended"))?;
        }
        Ok(())
    }

    fn ends(&mut self, speaker: Who) -> (&mut End, &mut End) {
        match speaker {
            Who::Client => (&mut self.client, &mut self.server),
            Who::Server => (&mut self.server, &mut self.client),
        }
    }
}

/// Waits until there is an answer.
///
/// # Errors
/// That of `ask`, and when there is none in time.
fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("{what}: nothing for {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
