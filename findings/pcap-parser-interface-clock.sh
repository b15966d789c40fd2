#!/bin/sh
# pcap-parser 0.17.0 (Rust) gets two of the clock options of a pcapng interface wrong, so the times of its packets cannot be
# had, or are far off, without an error:
#
# - `if_tsresol` with its high bit set means a power of two (draft-ietf-opsawg-pcapng, Interface Description Block): 0x94 is
#   2^-20 s. `build_ts_resolution`, and so `ts_resolution()`, looks whether the byte is above 63 while the high bit is still
#   in it, and gives `None` for every one of these values, also the 64 (2^0 to 2^-63) whose units per second fit a u64.
# - `if_tsoffset` has the byte order of its section like every number in it. Both `ts_offset()` and `if_tsoffset()` take it as
#   little-endian in big-endian sections too, where the snaplen of the same block is read right. Reported as
#   rusticata/pcap-parser#62.
#
# Seen with rustc 1.95, pcap-parser 0.17.0. Printed:
#
#   little-endian, if_tsresol 0x06: resolution Some(1000000), offset 3600, option Some(Ok(3600)), snaplen 65535
#   little-endian, if_tsresol 0x94: resolution None, offset 3600, option Some(Ok(3600)), snaplen 65535
#   big-endian, if_tsresol 0x06: resolution Some(1000000), offset 1156862154280796160, option Some(Ok(1156862154280796160)), snaplen 65535
#   powers of two with a resolution: 0 of 64
#   powers of ten with a resolution: 20 of 20
#
# Way round: take the field `if_tsresol` and shift oneself (1 << (value & 0x7f), if that is below 64), and call
# `swap_bytes()` on the offset in sections that are big-endian.
#
# Needs cargo and timeout.
set -eu
command -v cargo >/dev/null && command -v timeout >/dev/null || { echo "no cargo or no timeout"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "clock"
version = "0.0.0"
edition = "2024"
[dependencies]
pcap-parser = "=0.17.0"
[profile.dev]
debug = false
TOML
cat >"$dir/src/main.rs" <<'RUST'
use std::io::Cursor;

use pcap_parser::pcapng::build_ts_resolution;
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader};

/// Numbers in one byte order.
struct Out(Vec<u8>, bool);
impl Out {
    fn put(&mut self, value: i64, bytes: usize) {
        if self.1 {
            self.0.extend(&value.to_be_bytes()[8 - bytes..]);
        } else {
            self.0.extend(&value.to_le_bytes()[..bytes]);
        }
    }
    fn all(&mut self, numbers: &[(i64, usize)]) {
        for &(value, bytes) in numbers {
            self.put(value, bytes);
        }
    }
}

/// A section header, and one Ethernet interface with a resolution and an offset of an hour.
fn file(big_endian: bool, resolution: u8) -> Vec<u8> {
    let mut out = Out(Vec::new(), big_endian);
    // Type, length, byte order, version 1.0, unknown length of the section, length.
    out.all(&[(0x0a0d_0d0a, 4), (28, 4), (0x1a2b_3c4d, 4), (1, 2), (0, 2), (-1, 8), (28, 4)]);
    // Type, length, link type, reserved, snaplen.
    out.all(&[(1, 4), (44, 4), (1, 2), (0, 2), (65535, 4)]);
    // if_tsresol: code, length, one byte and three of padding.
    out.all(&[(9, 2), (1, 2), (i64::from(resolution), 1), (0, 1), (0, 1), (0, 1)]);
    // if_tsoffset, opt_endofopt, length.
    out.all(&[(14, 2), (8, 2), (3600, 8), (0, 2), (0, 2), (44, 4)]);
    out.0
}

fn show(big_endian: bool, resolution: u8) {
    let mut reader = PcapNGReader::new(65536, Cursor::new(file(big_endian, resolution))).unwrap();
    loop {
        match reader.next() {
            Ok((length, block)) => {
                if let PcapBlockOwned::NG(Block::InterfaceDescription(interface)) = block {
                    println!(
                        "{}, if_tsresol {resolution:#04x}: resolution {:?}, offset {}, option {:?}, snaplen {}",
                        if big_endian { "big-endian" } else { "little-endian" },
                        interface.ts_resolution(),
                        interface.ts_offset(),
                        interface.if_tsoffset(),
                        interface.snaplen,
                    );
                }
                reader.consume(length);
            }
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn main() {
    show(false, 0x06);
    show(false, 0x94);
    show(true, 0x06);
    let usable = |values: std::ops::Range<u8>| values.filter(|&value| build_ts_resolution(value).is_some()).count();
    println!("powers of two with a resolution: {} of 64", usable(0x80..0xc0));
    println!("powers of ten with a resolution: {} of 20", usable(0..20));
}
RUST
CARGO_TARGET_DIR="$dir/target" timeout 300 cargo build --quiet --jobs 2 --manifest-path "$dir/Cargo.toml" ||
    { echo "the crates cannot be built here"; exit 77; }
timeout 20 "$dir/target/debug/clock" | tee "$dir/got"
cat >"$dir/expected" <<'TEXT'
little-endian, if_tsresol 0x06: resolution Some(1000000), offset 3600, option Some(Ok(3600)), snaplen 65535
little-endian, if_tsresol 0x94: resolution None, offset 3600, option Some(Ok(3600)), snaplen 65535
big-endian, if_tsresol 0x06: resolution Some(1000000), offset 1156862154280796160, option Some(Ok(1156862154280796160)), snaplen 65535
powers of two with a resolution: 0 of 64
powers of ten with a resolution: 20 of 20
TEXT
cmp -s "$dir/expected" "$dir/got" || { echo "it is not so any more" >&2; exit 1; }
