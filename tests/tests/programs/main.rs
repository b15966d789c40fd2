//! Packets through the loaded programs without any link: what goes in, what comes out, and every
//! checksum recomputed.
//!
//! [`world`] is where fixtures run; the other files are the fixtures, and one property.

mod answers;
mod bridge;
mod endings;
mod entrances;
mod entries;
mod errors;
mod fast;
mod flights;
mod fragments;
mod frames;
mod handshakes;
mod hellos;
mod inline;
mod layouts;
mod leaving;
mod legs;
mod offers;
mod plain;
mod race;
mod random;
mod spliced;
mod surgery;
mod sweeping;
mod syn_acks;
mod too_big;
mod turnover;
mod unknown;
mod untouched;
mod ways;
mod world;
