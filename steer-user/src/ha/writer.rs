//! What a gateway writes to a store: its stream of batches, all that it knows in parts, and that it is
//! there.

use std::{collections::VecDeque, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::time;

use super::{
    link::{BEGINNING, Contents, Half, Link, Retry, StoreClock, part_name, part_number},
    outbox::{Batch, Beat, Item},
    seal::{Number, Purpose},
    store::Connection,
};

/// Bytes of its own stream that a gateway keeps at a store.
const LOG_BYTES: usize = 64 << 20;
/// Messages that are kept however long they are, so that a stream that is begun anew is not cut.
const LOG_LEAST: usize = 4096;
/// As much is written at a time.
const AT_ONCE: usize = 128;
/// As many parts of all that the gateway knows are written between what else waits.
const PARTS_AT_ONCE: usize = 16;
/// The store's clock is asked after so many beats.
const CLOCK_BEATS: u64 = 10;

/// What outlasts a connection.
struct Kept {
    /// Lengths of the messages that are kept at the store.
    lengths: VecDeque<usize>,
    bytes: usize,
    /// Where the last message stands, and its number.
    last: (String, u64),
    /// Parts that lie at the store and are not needed once all is written anew.
    parts: Vec<String>,
    /// Which walk all is of that lies at the store.
    all: u32,
    /// All that the gateway knows, while it is written.
    writing: Option<Writing>,
    /// Bytes of the stream since all was wanted last.
    since_all: usize,
    beats: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            lengths: VecDeque::new(),
            bytes: 0,
            last: (BEGINNING.to_owned(), 0),
            parts: Vec::new(),
            all: 0,
            writing: None,
            since_all: 0,
            beats: 0,
        }
    }
}

impl Kept {
    /// How many messages are kept once one of this length is added.
    fn keep(&mut self, length: usize) -> usize {
        self.lengths.push_back(length);
        self.bytes += length;
        while self.bytes > LOG_BYTES {
            self.bytes -= self.lengths.pop_front().unwrap_or(self.bytes);
        }
        self.lengths.len().max(LOG_LEAST)
    }

    /// All is written no further: its parts go with those of the one before.
    fn give_up(&mut self) {
        let begun = self.writing.take().into_iter();
        self.parts.extend(begun.flat_map(|begun| begun.names));
    }
}

/// All that the gateway knows, as far as it is written.
struct Writing {
    texts: Arc<Vec<Vec<u8>>>,
    walk: u32,
    contents: Contents,
    /// Parts that are written.
    names: Vec<String>,
}

impl Link {
    /// Writes for ever.
    pub(super) async fn write(&self) {
        let (mut retry, mut kept) = (Retry::default(), Kept::default());
        loop {
            let began = time::Instant::now();
            let ended = self.write_session(&mut kept).await;
            self.outbox.close();
            kept.give_up();
            if let Err(error) = ended {
                self.note_error(Half::Write, &error);
            }
            if let Some(store) = self.shared.lock().report.stores.get_mut(self.number) {
                store.connected = false;
            }
            retry.wait(began).await;
        }
    }

    async fn write_session(&self, kept: &mut Kept) -> Result<()> {
        let mut connection = self.store.connect().await?;
        let mut clock = StoreClock::read(&mut connection).await?;
        self.restored.subscribe().wait_for(|restored| *restored).await.context("wait to read")?;
        // What this gateway wrote in an earlier life.
        kept.parts.extend(self.own_parts(&mut connection).await?);
        // A store that cannot be written is not there.
        connection.try_to_write(&self.name).await?;
        self.outbox.open();
        self.note_reached();
        kept.all = 0;
        let mut mark = (kept.last.clone(), clock.now());
        loop {
            let items = match &kept.writing {
                None => self.outbox.next(AT_ONCE).await,
                Some(_) => self.outbox.take(AT_ONCE),
            };
            let mut batches = Vec::new();
            for item in items {
                let item = match item {
                    Item::Batch(batch) => {
                        batches.push(batch);
                        continue;
                    }
                    other => other,
                };
                self.write_batches(&mut connection, kept, &mut batches).await?;
                match item {
                    Item::Batch(_) => {}
                    Item::Mark(at) => {
                        let ago = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                        mark = (kept.last.clone(), clock.now().saturating_sub(ago));
                    }
                    Item::All(texts, walk) => {
                        kept.give_up();
                        let ((position, sequence), began) = mark.clone();
                        let parts = u32::try_from(texts.len()).context("count parts")?;
                        let ended = clock.now();
                        let contents = Contents { parts, position, sequence, began, ended };
                        kept.writing = Some(Writing { texts, walk, contents, names: Vec::new() });
                    }
                    Item::Beat(beat) => {
                        if kept.beats % CLOCK_BEATS == CLOCK_BEATS - 1 {
                            clock = StoreClock::read(&mut connection).await?;
                        }
                        self.write_beat(&mut connection, kept, beat, clock).await?;
                    }
                }
            }
            self.write_batches(&mut connection, kept, &mut batches).await?;
            self.write_parts(&mut connection, kept).await?;
        }
    }

    async fn write_batches(
        &self,
        connection: &mut Connection,
        kept: &mut Kept,
        batches: &mut Vec<Batch>,
    ) -> Result<()> {
        let Some(last) = batches.last().map(|batch| batch.sequence) else { return Ok(()) };
        let (mut messages, mut keep) = (Vec::new(), 0);
        for Batch { sequence, text, since } in batches.drain(..) {
            let waited = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
            let text = [&waited.to_be_bytes(), text.as_slice()].concat();
            let number = Number { epoch: self.epoch, sequence };
            let message = self.seal.seal(Purpose::Batch, &self.name, number, &text)?;
            keep = kept.keep(message.len());
            messages.push(message);
        }
        let at = connection.add(&self.name, &messages, keep).await?;
        kept.last = (at, last);
        kept.since_all += messages.iter().map(Vec::len).sum::<usize>();
        // What all was written behind is still there when others read it.
        if kept.since_all > LOG_BYTES / 2 {
            kept.since_all = 0;
            self.outbox.want_all();
        }
        if let Some(store) = self.shared.lock().report.stores.get_mut(self.number) {
            store.written += messages.len() as u64;
        }
        Ok(())
    }

    async fn write_beat(
        &self,
        connection: &mut Connection,
        kept: &mut Kept,
        beat: Beat,
        clock: StoreClock,
    ) -> Result<()> {
        kept.beats += 1;
        let beat = Beat { at: clock.now(), all: kept.all, sequence: kept.last.1, ..beat };
        let number = Number { epoch: self.epoch, sequence: kept.beats };
        let text = postcard::to_stdvec(&beat).context("write how this gateway is")?;
        connection.say(&self.name, &self.seal.seal(Purpose::Beat, &self.name, number, &text)?).await
    }

    /// Writes some parts of all that the gateway knows, where that is to be written; behind the last
    /// one what names them.
    async fn write_parts(&self, connection: &mut Connection, kept: &mut Kept) -> Result<()> {
        for _ in 0..PARTS_AT_ONCE {
            let Some(all) = &mut kept.writing else { return Ok(()) };
            let Some(text) = all.texts.get(all.names.len()) else {
                let number = part_number(self.epoch, all.walk, 0);
                let text = postcard::to_stdvec(&all.contents).context("write contents")?;
                let message = self.seal.seal(Purpose::Contents, &self.name, number, &text)?;
                connection.put(Purpose::Contents, &self.name, &message).await?;
                kept.all = all.walk;
                let old = std::mem::take(&mut kept.parts);
                kept.give_up();
                return connection.remove(&old).await;
            };
            let n = u32::try_from(all.names.len()).context("count parts")?;
            let number = part_number(self.epoch, all.walk, n);
            let name = part_name(&self.name, number);
            let message = self.seal.seal(Purpose::Part, &self.name, number, text)?;
            // It may be there also where no answer comes.
            all.names.push(name.clone());
            connection.put(Purpose::Part, &name, &message).await?;
        }
        Ok(())
    }

    /// The names of the parts that this gateway wrote in an earlier life.
    async fn own_parts(&self, connection: &mut Connection) -> Result<Vec<String>> {
        let Some((number, contents)) = self.contents(connection, &self.name).await? else {
            return Ok(Vec::new());
        };
        if number.epoch == self.epoch {
            return Ok(Vec::new());
        }
        let name = |n| part_name(&self.name, Number { sequence: number.sequence + n, ..number });
        Ok((0..u64::from(contents.parts)).map(name).collect())
    }

    fn note_reached(&self) {
        let mut noted = self.shared.lock();
        if let Some(store) = noted.report.stores.get_mut(self.number) {
            log::info!("store {} is reached", store.server);
            store.connected = true;
        }
        drop(noted);
        self.note_good(Half::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_as_many_messages_as_have_room_and_some_however_long_they_are() {
        let mut kept = Kept::default();
        assert_eq!(kept.keep(1000), LOG_LEAST);
        let n = 2 * LOG_LEAST;
        (0..n).for_each(|_| {
            kept.keep(1);
        });
        assert_eq!(kept.keep(1), n + 2);
        assert_eq!(kept.keep(LOG_BYTES), LOG_LEAST);
        assert_eq!(kept.lengths.len(), 1);
    }
}
