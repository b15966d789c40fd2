//! Whole numbers of a range: whoever writes another one is told the range, not the name of a type.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Reads a whole number from `FROM` to `TO`, all of which `N` must be able to hold.
pub(super) fn whole<'de, D, N, const FROM: i64, const TO: i64>(from: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<i64>,
{
    from.deserialize_any(Whole::<N, FROM, TO>(PhantomData))
}

struct Whole<N, const FROM: i64, const TO: i64>(PhantomData<N>);

impl<N: TryFrom<i64>, const FROM: i64, const TO: i64> Visitor<'_> for Whole<N, FROM, TO> {
    type Value = N;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {FROM} to {TO}")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<N, E> {
        self.visit_i128(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<N, E> {
        self.visit_i128(number.into())
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<N, E> {
        let refuse = || E::invalid_value(Unexpected::Other(&format!("integer `{number}`")), &self);
        let number = i64::try_from(number)
            .ok()
            .filter(|number| (FROM..=TO).contains(number))
            .ok_or_else(refuse)?;
        N::try_from(number).map_err(|_| refuse())
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<N, E> {
        self.visit_i128(i128::try_from(number).unwrap_or(i128::MAX))
    }
}
