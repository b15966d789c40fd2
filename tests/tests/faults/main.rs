//! Everything that can go wrong around a re-homed flow: the session is resumed on its owner, or the
//! first backend makes a full handshake, and the client sees no error.
//!
//! Every case runs on TC and IPv4 and in one more setting of hook, family and offloads, so that all
//! pairs of them are met over the cases; in every setting with `STEER_TEST_ALL=1` (see
//! [`steer_tests::setting`]).

mod agent;
mod backends;
mod bulk;
mod clocks;
mod crash;
mod gather;
mod hellos;
mod links;
mod operator;
mod options;
mod owners;
mod race;
mod refusals;
mod reuse;
mod tables;
mod timing;
mod transaction;
mod weather;
mod xdp;
