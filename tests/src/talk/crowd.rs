//! Many conversations that go on until they are ended.

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{Conversation, PATIENCE, Who, wait_for};

/// What each side says in a round, bytes: several segments.
const PORTION: usize = 20_000;
/// Pause between rounds.
const PACE: Duration = Duration::from_millis(40);

/// Conversations in each of which both sides speak all along.
pub struct Crowd {
    over: Arc<AtomicBool>,
    members: Vec<Member>,
}

struct Member {
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Crowd {
    /// Lets these go on.
    pub fn of(conversations: Vec<Conversation>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let members = conversations.into_iter().enumerate().map(|(number, conversation)| {
            let (rounds, over) = (Arc::new(AtomicUsize::new(0)), over.clone());
            let done = rounds.clone();
            // Clients end one half of them, servers the other.
            let ends = if number % 2 == 0 { Who::Client } else { Who::Server };
            Member {
                rounds,
                thread: thread::spawn(move || go_on(conversation, &over, &done, ends)),
            }
        });
        Self { members: members.collect(), over }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Waits until each has gone on by some rounds, or is known not to.
    pub fn goes_on(&self) {
        const ROUNDS: usize = 3;
        let before: Vec<_> =
            self.members.iter().map(|member| member.rounds.load(Ordering::Relaxed)).collect();
        let gone_on = wait_for(3 * PATIENCE, "the conversations go on", || {
            let on = self.members.iter().zip(&before).all(|(member, before)| {
                member.thread.is_finished()
                    || member.rounds.load(Ordering::Relaxed) >= before + ROUNDS
            });
            Ok(on.then_some(()))
        });
        // Who does not, or breaks, is told of by [`Crowd::end`].
        drop(gone_on);
    }

    /// Ends all, and expects every one of them to have been whole.
    ///
    /// # Errors
    /// With how many were, and why the others were not.
    #[track_caller]
    pub fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let n = self.members.len();
        let ended = self
            .members
            .into_iter()
            .map(|member| member.thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let broken: Vec<String> =
            ended.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
        ensure!(
            broken.is_empty(),
            "{} of {n} conversations whole; others: {broken:#?}",
            n - broken.len()
        );
        Ok(())
    }
}

fn go_on(
    mut conversation: Conversation,
    over: &AtomicBool,
    rounds: &AtomicUsize,
    ends: Who,
) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        conversation.exchange(PORTION)?;
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PACE);
    }
    conversation.exchange(PORTION)?;
    conversation.finish(ends)
}
