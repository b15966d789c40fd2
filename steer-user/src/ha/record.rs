//! What gateways tell each other, as bytes: a batch of rows that name pools and backends by their
//! place in the batch's own lists. Each row has its kind and its length in front, so that a gateway
//! of another version counts and skips what it does not know.
//!
//! The bytes are those of postcard (its wire format, version 1).

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use steer_common::session::{Kind, SESSION_ID_MAX};

pub use crate::rows::Fact;
use crate::service::Service;

/// Longest batch, bytes, as text.
pub const BATCH_MAX: usize = 64 << 10;
/// A batch that has so many bytes is sent as it is.
pub const BATCH_FULL: usize = 16 << 10;

/// What one gateway tells the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// Who holds a session, or a ticket key.
    Fact(Fact),
    /// A flow was moved, or goes on, or was seen to end.
    Splice(Splice),
    /// A flow that was moved is over; the client's initial sequence number tells it from others on
    /// the same ports.
    Over(Name, u32),
}

/// Which flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name {
    /// The client.
    pub client: SocketAddr,
    /// Its VIP's pool, or the inline one.
    pub pool: Service,
    /// The backend that the client dialled itself; `None`: a VIP.
    pub dialled: Option<SocketAddr>,
    /// The VIP that it dialled, where the key of the flow says it.
    pub beside: Option<SocketAddr>,
}

/// A re-homed flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Splice {
    /// Which flow it is.
    pub name: Name,
    /// The VIP that the client came by, where that is not the one that the pool is known by.
    pub entrance: Option<SocketAddr>,
    /// The first backend.
    pub first: SocketAddr,
    /// The owner.
    pub owner: SocketAddr,
    /// All else.
    pub numbers: Numbers,
}

/// What does not name anything: as in a flow's record, ports in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// The client's initial sequence number.
    pub isn: u32,
    /// How far it went: any of `FLOW_*` that tell of its end.
    pub marks: u32,
    /// As [`Flow::client_next`](steer_common::shared::Flow::client_next).
    pub client_next: u32,
    /// As [`Flow::server_next`](steer_common::shared::Flow::server_next).
    pub server_next: u32,
    /// As [`Flow::delta`](steer_common::shared::Flow::delta).
    pub delta: u32,
    /// As [`Flow::ts_delta`](steer_common::shared::Flow::ts_delta).
    pub ts_delta: u32,
    /// The first backend's initial sequence number.
    pub first_isn: u32,
    /// The owner's initial sequence number.
    pub owner_isn: u32,
    /// The client's port at the first backend; 0: its own.
    pub first_port: u16,
    /// The client's port at the owner; 0: its own.
    pub owner_port: u16,
    /// MSS that the client announced.
    pub client_mss: u16,
    /// MSS that the client was told.
    pub advertised_mss: u16,
    /// Window scales of first backend, owner and client.
    pub scales: [u8; 3],
    /// Options the client offered.
    pub offered: u8,
    /// Options agreed with the first backend.
    pub agreed: u8,
    /// Seconds since its last packet.
    pub idle: u32,
}

/// Kinds of rows. Numbers are never used again for something else.
const FACT: u8 = 1;
const SPLICE: u8 = 2;
const OVER: u8 = 3;

#[derive(Default, Serialize, Deserialize)]
struct Batch<'a> {
    pools: Vec<String>,
    addresses: Vec<SocketAddr>,
    /// The kind of each row, and its bytes.
    #[serde(borrow)]
    rows: Vec<(u8, &'a [u8])>,
}

#[derive(Serialize, Deserialize)]
struct FactRow<'a> {
    pool: u16,
    kind: u8,
    id: &'a [u8],
    owner: u16,
    age: u32,
    idle: u32,
    uses: u32,
    tail: u16,
    flags: u16,
}

#[derive(Serialize, Deserialize)]
struct NameRow {
    client: SocketAddr,
    pool: u16,
    dialled: Option<u16>,
    beside: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct SpliceRow {
    name: NameRow,
    entrance: Option<u16>,
    first: u16,
    owner: u16,
    numbers: Numbers,
}

/// Rows being put together.
#[derive(Default)]
pub struct Writer {
    pools: Vec<Service>,
    addresses: Vec<SocketAddr>,
    rows: Vec<(u8, Vec<u8>)>,
    bytes: usize,
}

impl Writer {
    /// Adds a row.
    ///
    /// # Errors
    /// Where there are more names than can be told apart, which a batch of [`BATCH_FULL`] bytes has
    /// not.
    pub fn push(&mut self, row: &Row) -> Result<()> {
        let (kind, bytes) = match row {
            Row::Fact(fact) => {
                let row = FactRow {
                    pool: place(&mut self.pools, fact.pool)?,
                    kind: fact.kind as u8,
                    id: &fact.id,
                    owner: place(&mut self.addresses, fact.owner)?,
                    age: fact.age,
                    idle: fact.idle,
                    uses: fact.uses,
                    tail: fact.tail,
                    flags: fact.flags,
                };
                (FACT, postcard::to_stdvec(&row)?)
            }
            Row::Splice(splice) => {
                let row = SpliceRow {
                    name: self.name(&splice.name)?,
                    entrance: self.place(splice.entrance)?,
                    first: place(&mut self.addresses, splice.first)?,
                    owner: place(&mut self.addresses, splice.owner)?,
                    numbers: splice.numbers,
                };
                (SPLICE, postcard::to_stdvec(&row)?)
            }
            Row::Over(name, isn) => (OVER, postcard::to_stdvec(&(self.name(name)?, isn))?),
        };
        self.bytes += bytes.len() + 3;
        self.rows.push((kind, bytes));
        Ok(())
    }

    fn name(&mut self, name: &Name) -> Result<NameRow> {
        Ok(NameRow {
            client: name.client,
            pool: place(&mut self.pools, name.pool)?,
            dialled: self.place(name.dialled)?,
            beside: self.place(name.beside)?,
        })
    }

    fn place(&mut self, address: Option<SocketAddr>) -> Result<Option<u16>> {
        address.map(|address| place(&mut self.addresses, address)).transpose()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it is long enough to be sent.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_FULL
    }

    /// The batch; empty again for the next one.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn finish(&mut self) -> Result<Vec<u8>> {
        let Self { pools, addresses, rows, .. } = std::mem::take(self);
        let batch = Batch {
            pools: pools.iter().map(Service::to_string).collect(),
            addresses,
            rows: rows.iter().map(|(kind, bytes)| (*kind, bytes.as_slice())).collect(),
        };
        postcard::to_stdvec(&batch).context("write a batch")
    }
}

/// The place of a name in its list, where it is entered if it is not there.
fn place<T: PartialEq>(list: &mut Vec<T>, name: T) -> Result<u16> {
    let known = list.iter().position(|known| *known == name);
    let at = known.unwrap_or_else(|| {
        list.push(name);
        list.len() - 1
    });
    u16::try_from(at).context("more names than a batch can have")
}

/// Rows of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Read {
    /// Those that were understood.
    pub rows: Vec<Row>,
    /// Rows of a kind, or of a form, that this version does not know.
    pub unknown: u64,
}

/// Reads a batch.
///
/// # Errors
/// Where it is longer than one may be, or is none. A row that is not understood is counted.
pub fn read(text: &[u8]) -> Result<Read> {
    ensure!(
        text.len() <= BATCH_MAX,
        "a batch of {} bytes; expected at most {BATCH_MAX}",
        text.len()
    );
    let batch = postcard::from_bytes::<Batch<'_>>(text).context("read a batch")?;
    let pools = batch.pools.iter().map(|pool| pool.parse().ok()).collect::<Vec<_>>();
    let lists = Lists { pools, addresses: &batch.addresses };
    let mut read = Read::default();
    for (kind, bytes) in batch.rows {
        match lists.row(kind, bytes) {
            Some(row) => read.rows.push(row),
            None => read.unknown += 1,
        }
    }
    Ok(read)
}

struct Lists<'a> {
    pools: Vec<Option<Service>>,
    addresses: &'a [SocketAddr],
}

impl Lists<'_> {
    fn row(&self, kind: u8, bytes: &[u8]) -> Option<Row> {
        match kind {
            FACT => {
                let row = postcard::from_bytes::<FactRow<'_>>(bytes).ok()?;
                let id = Some(row.id).filter(|id| (1..=SESSION_ID_MAX).contains(&id.len()))?;
                Some(Row::Fact(Fact {
                    pool: self.pool(row.pool)?,
                    kind: Kind::from_number(row.kind)?,
                    id: id.to_vec(),
                    owner: self.address(row.owner)?,
                    age: row.age,
                    idle: row.idle,
                    uses: row.uses,
                    tail: row.tail,
                    flags: row.flags,
                }))
            }
            SPLICE => {
                let row = postcard::from_bytes::<SpliceRow>(bytes).ok()?;
                Some(Row::Splice(Splice {
                    name: self.name(&row.name)?,
                    entrance: self.maybe(row.entrance)?,
                    first: self.address(row.first)?,
                    owner: self.address(row.owner)?,
                    numbers: row.numbers,
                }))
            }
            OVER => {
                let (name, isn) = postcard::from_bytes::<(NameRow, u32)>(bytes).ok()?;
                Some(Row::Over(self.name(&name)?, isn))
            }
            _ => None,
        }
    }

    fn name(&self, row: &NameRow) -> Option<Name> {
        Some(Name {
            client: row.client,
            pool: self.pool(row.pool)?,
            dialled: self.maybe(row.dialled)?,
            beside: self.maybe(row.beside)?,
        })
    }

    fn pool(&self, at: u16) -> Option<Service> {
        *self.pools.get(usize::from(at))?
    }

    fn address(&self, at: u16) -> Option<SocketAddr> {
        self.addresses.get(usize::from(at)).copied()
    }

    /// An address that may be none; the outer `None` where its place is none in the list.
    fn maybe(&self, at: Option<u16>) -> Option<Option<SocketAddr>> {
        at.map_or(Some(None), |at| self.address(at).map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::fact;

    fn rows() -> Vec<Row> {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let name = Name {
            client: at("192.0.2.7:40000"),
            pool: fact().pool,
            dialled: None,
            beside: Some(at("198.51.100.11:443")),
        };
        let inline = Name {
            client: at("[2001:db8::7]:40000"),
            pool: "web".parse().unwrap(),
            dialled: Some(at("[fd00::2]:443")),
            beside: None,
        };
        let splice = Splice {
            name,
            entrance: Some(at("198.51.100.11:443")),
            first: at("10.0.0.1:443"),
            owner: at("10.0.0.2:443"),
            numbers: Numbers { delta: u32::MAX, owner_port: 40000, ..Numbers::default() },
        };
        let name_fact = Fact { kind: Kind::KeyName, id: vec![1; 16], flags: 2, tail: 7, ..fact() };
        vec![
            Row::Fact(fact()),
            Row::Fact(name_fact),
            Row::Splice(splice),
            Row::Splice(Splice { name: inline, entrance: None, ..splice }),
            Row::Over(inline, 77),
        ]
    }

    fn written(rows: &[Row]) -> Vec<u8> {
        let mut writer = Writer::default();
        rows.iter().for_each(|row| writer.push(row).unwrap());
        assert_eq!(writer.len(), rows.len());
        writer.finish().unwrap()
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let read = read(&written(&rows())).unwrap();
        assert_eq!(read, Read { rows: rows(), unknown: 0 });
    }

    /// Gateways of today and tomorrow read what is written now: the form of a kind of row does not
    /// change.
    #[test]
    fn rows_are_written_as_they_always_were() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/rows/each_kind");
        assert_eq!(std::fs::read(file).unwrap(), written(&rows()));
    }

    #[test]
    fn a_session_takes_fifty_bytes_in_a_batch() {
        let rows = vec![Row::Fact(fact()); 100];
        assert!(written(&rows).len() < 50 * 100, "{}", written(&rows).len());
    }

    #[test]
    fn rows_of_a_kind_or_form_that_is_not_known_are_counted_and_the_others_read() {
        let mut writer = Writer::default();
        writer.push(&rows()[0]).unwrap();
        writer.rows.push((200, vec![1, 2, 3]));
        writer.rows.push((FACT, vec![1]));
        // Names that are not in the lists.
        let (kind, mut elsewhere) = writer.rows[0].clone();
        elsewhere[0] = 9;
        writer.rows.push((kind, elsewhere));
        writer.push(&rows()[4]).unwrap();
        let read = read(&writer.finish().unwrap()).unwrap();
        assert_eq!((read.rows, read.unknown), (vec![rows()[0].clone(), rows()[4].clone()], 3));
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let whole = written(&rows());
        for n in 0..whole.len() {
            // Cut anywhere it is refused, never read as something else.
            assert!(read(&whole[..n]).is_err(), "{n} bytes");
        }
        assert!(read(&vec![0; BATCH_MAX + 1]).is_err());
        assert!(read(&[0xff; 100]).is_err());
    }
}
