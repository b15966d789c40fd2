//! `steer stats`.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use steer_common::counters::Counter;

use crate::plane::Plane;

/// Every counter by its word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// Word to number.
    pub counters: Map<String, Value>,
}

impl Stats {
    /// Reads the maps.
    pub fn read(plane: &Plane) -> Result<Self> {
        let read =
            |counter: &Counter| Ok((counter.word().to_owned(), plane.counter(*counter)?.into()));
        Ok(Self { counters: Counter::ALL.iter().map(read).collect::<Result<_>>()? })
    }

    /// The value of a counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.counters.get(counter.word()).and_then(Value::as_u64).unwrap_or_default()
    }
}
