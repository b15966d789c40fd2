//! An upgrade over a changed map layout: what the older version's gateway held goes on, under load
//! and after a death at any step.

mod downgrade;
mod from_binary;
mod from_state;
mod world;
