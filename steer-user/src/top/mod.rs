//! `steer top`: the gateway's numbers as rates, on a terminal or as one frame.

mod draw;
mod frame;
mod sample;
mod verdicts;

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};

pub(crate) use self::sample::read;
use self::{draw::View, sample::Sample};
pub use self::{
    draw::text,
    frame::{BackendRow, Frame, Order, Rates, VerdictRow},
    sample::Sampled,
};
use crate::report::Status;

/// Shortest time between two looks at what `steer status` tells.
const STATUS: Duration = Duration::from_secs(5);
/// Those looks, which walk every table, take at most one part in so many of a CPU.
const STATUS_SHARE: u32 = 20;

/// What is looked at.
pub trait Source: Clone + Send + 'static {
    /// Reads counters and backends.
    fn sample(&self) -> Result<Sampled>;
    /// Reads what `steer status` tells.
    fn status(&self) -> Result<Status>;
}

/// Two looks, `every` apart, as one frame.
pub fn once(source: &impl Source, every: Duration) -> Result<Frame> {
    let before = Sample::read(source)?;
    let status = source.status()?;
    thread::sleep(every.saturating_sub(before.at.elapsed()));
    Ok(Frame::new(&before, &Sample::read(source)?, &status, Order::default()))
}

/// Whether somebody looks at a screen and has keys.
pub fn is_interactive() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Draws until it is told to end.
pub fn watch(source: &impl Source, every: Duration) -> Result<()> {
    let first = Sample::read(source)?;
    let status = source.status()?;
    let looks = looks(source.clone());
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let mut screen = Screen::new(first, status, looks);
    let ended = screen.run(&mut terminal, source, every);
    ratatui::restore();
    ended
}

/// Looks at what takes longer, in a thread of its own.
fn looks(source: impl Source) -> Receiver<Result<Status>> {
    let (found, looks) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let started = Instant::now();
            if found.send(source.status()).is_err() {
                return;
            }
            thread::sleep(STATUS.max(started.elapsed() * STATUS_SHARE));
        }
    });
    looks
}

/// What is on the screen.
struct Screen {
    before: Sample,
    now: Sample,
    status: Status,
    looks: Receiver<Result<Status>>,
    view: View,
    ended: bool,
}

impl Screen {
    fn new(first: Sample, status: Status, looks: Receiver<Result<Status>>) -> Self {
        let view = View::default();
        Self { before: first.clone(), now: first, status, looks, view, ended: false }
    }

    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        source: &impl Source,
        every: Duration,
    ) -> Result<()> {
        let mut next = Instant::now() + every;
        while !self.ended {
            let frame = Frame::new(&self.before, &self.now, &self.status, self.view.order);
            terminal
                .draw(|screen| draw::draw(screen, &frame, &self.view))
                .context("draw to the terminal")?;
            if event::poll(next.saturating_duration_since(Instant::now()))
                .context("wait for a key")?
            {
                if let Event::Key(key) = event::read().context("read a key")? {
                    self.pressed(key);
                }
            } else {
                next += every;
                self.look(source);
            }
        }
        Ok(())
    }

    /// What cannot be read is told in the first line, and tried again.
    fn look(&mut self, source: &impl Source) {
        if self.view.paused {
            return;
        }
        let mut trouble = None;
        for look in self.looks.try_iter() {
            match look {
                Ok(status) => (self.status, trouble) = (status, None),
                Err(error) => trouble = Some(format!("{error:#}")),
            }
        }
        match Sample::read(source) {
            Ok(sample) => self.before = std::mem::replace(&mut self.now, sample),
            Err(error) => trouble = Some(format!("{error:#}")),
        }
        self.view.trouble = trouble;
    }

    fn pressed(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if with_control => self.ended = true,
            KeyCode::Char('q') | KeyCode::Esc => self.ended = true,
            KeyCode::Char('s') => self.view.order = self.view.order.next(),
            KeyCode::Char('p' | ' ') => self.view.paused = !self.view.paused,
            KeyCode::Down | KeyCode::Char('j') => {
                let last = self.now.backends.backends.len().saturating_sub(1);
                self.view.first = (self.view.first + 1).min(last);
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.view.first = self.view.first.saturating_sub(1);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
