//! Parser, policy, re-home state machine and map layouts of `steer`: one source for the kernel
//! programs, the agent, the tests, the fuzzers and the offline tools.
//!
//! Modules stand in the order of a packet's journey: bytes are read ([`wire`]), named
//! ([`directory`], [`flow`], [`session`]), decided on ([`stage`], [`decide`], [`refusals`],
//! [`rotation`], [`rehome`], [`ranges`]), rewritten ([`splice`], [`checksum`]), traced ([`trace`]), cached ([`fast`]),
//! learned from ([`learn`]) and counted ([`counters`]); [`maps`] lists the pinned maps, [`shared`]
//! holds their layouts.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod checksum;
pub mod counters;
pub mod decide;
pub mod directory;
pub mod fast;
pub mod flow;
pub mod learn;
pub mod legs;
pub mod maps;
pub mod ranges;
pub mod refusals;
pub mod rehome;
pub mod rest;
pub mod rotation;
pub mod session;
pub mod shared;
pub mod splice;
pub mod stage;
pub mod trace;
pub mod wire;
