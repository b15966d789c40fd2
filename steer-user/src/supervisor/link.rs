//! What a worker tells its supervisor: one message a packet, with files.

use std::{
    cell::Cell,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::agent::WISHES;

/// Longest message, bytes.
const MESSAGE_MAX: usize = 4096;
/// Files with one message: what a worker has open, and whoever waits.
const FILES_MAX: usize = 16;
const _: () = assert!(FILES_MAX >= 8 + WISHES);

/// What a worker tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// Its start is through, or a reload changed nothing.
    Up {
        /// A sentence for the service manager.
        status: String,
    },
    /// Its main loop turns.
    Alive,
    /// It judges a file that is to be in force.
    Reloading,
    /// It ends, and the next one is to begin with these files.
    Successor,
}

/// The worker's end.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    /// How often the service manager wants to hear of it.
    watchdog: Option<Duration>,
}

/// The supervisor's end.
pub(super) struct Ear {
    socket: OwnedFd,
    closed: Cell<bool>,
}

/// Both ends.
pub(super) fn pair(watchdog: Option<Duration>) -> Result<(Ear, Link)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context("make a socket for the worker")?;
    Ok((Ear { socket: ours, closed: Cell::new(false) }, Link { socket: theirs, watchdog }))
}

impl Link {
    /// How often [`Link::alive`] is to be called, if at all.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The start is through, or what was asked changes nothing.
    ///
    /// # Errors
    /// Without a supervisor.
    pub fn up(&self, status: &str) -> Result<()> {
        self.tell(&Message::Up { status: status.to_owned() }, &[])
    }

    /// The main loop turns.
    ///
    /// # Errors
    /// Without a supervisor.
    pub fn alive(&self) -> Result<()> {
        self.tell(&Message::Alive, &[])
    }

    /// A file is judged that is to be in force.
    ///
    /// # Errors
    /// Without a supervisor.
    pub fn reloading(&self) -> Result<()> {
        self.tell(&Message::Reloading, &[])
    }

    /// This worker is about to end; the next one gets these files.
    ///
    /// # Errors
    /// Without a supervisor.
    pub fn succeed(&self, files: &[OwnedFd]) -> Result<()> {
        self.tell(&Message::Successor, files)
    }

    fn tell(&self, message: &Message, files: &[OwnedFd]) -> Result<()> {
        let text = serde_json::to_vec(message).context("write to the supervisor")?;
        let files = files.iter().map(|file| file.as_raw_fd()).collect::<Vec<_>>();
        let rights = [ControlMessage::ScmRights(&files)];
        let rights = if files.is_empty() { &[] } else { &rights[..] };
        let parts = [IoSlice::new(&text)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)
            .context("tell the supervisor")
            .map(drop)
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Ear {
    /// The next message with its files, if there is one. What is no message of ours is dropped.
    pub(super) fn hear(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut text = [0; MESSAGE_MAX];
        let mut parts = [IoSliceMut::new(&mut text)];
        let mut room = nix::cmsg_space!([std::os::fd::RawFd; FILES_MAX]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let heard = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags);
        let heard = match heard {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            // It ended with messages of ours unread, of which there are none.
            Err(nix::Error::ECONNRESET) => {
                self.closed.set(true);
                return Ok(None);
            }
            heard => heard.context("hear the worker")?,
        };
        let mut files = Vec::new();
        for message in heard.cmsgs().context("take what the worker hands over")? {
            if let ControlMessageOwned::ScmRights(handed) = message {
                // SAFETY: descriptors that the kernel just made for this process.
                files.extend(handed.into_iter().map(|file| unsafe { OwnedFd::from_raw_fd(file) }));
            }
        }
        let length = heard.bytes;
        if length == 0 {
            self.closed.set(true);
            return Ok(None);
        }
        let message = text.get(..length).and_then(|text| serde_json::from_slice(text).ok());
        Ok(message.map(|message| (message, files)))
    }

    /// Whether the worker's end is gone, and all that it said is heard.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
    };

    use super::*;

    #[test]
    fn messages_come_whole_in_order_and_with_their_files() -> Result<()> {
        let (ear, link) = pair(None)?;
        assert_eq!(ear.hear()?.map(|(message, _)| message), None);
        assert!(!ear.is_closed());
        let mut file = tempfile::tempfile()?;
        file.write_all(b"kept")?;
        link.reloading()?;
        link.succeed(&[file.into()])?;
        drop(link);
        assert!(matches!(ear.hear()?, Some((Message::Reloading, files)) if files.is_empty()));
        let Some((Message::Successor, mut files)) = ear.hear()? else { anyhow::bail!("none") };
        let mut file = File::from(files.remove(0));
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        assert_eq!((text.as_str(), files.len()), ("kept", 0));
        assert!(ear.hear()?.is_none() && ear.is_closed());
        Ok(())
    }

    #[test]
    fn what_is_no_message_is_not_heeded() -> Result<()> {
        let (ear, link) = pair(None)?;
        let parts = [IoSlice::new(b"{\"reboot\":1}")];
        sendmsg::<()>(link.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)?;
        assert!(ear.hear()?.is_none() && !ear.is_closed());
        Ok(())
    }
}
