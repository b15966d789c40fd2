#!/bin/sh
# A dump of the generic netlink family `netdev` (Linux 6.3 and newer) comes without NLM_F_MULTI in its parts; only the
# NLMSG_DONE at the end has the flag. RFC 3549 2.3.2.2 says that the parts of a multipart message have it. A client that takes
# a message without the flag for the whole answer gets the first interface and no other: netlink-proto 0.14.1 (Rust, below
# rtnetlink 0.24) does so, although the request had NLM_F_DUMP. libnl, iproute2 and pyroute2 wait for NLMSG_DONE.
#
# Seen with Linux 6.18.44, rustc 1.95, netlink-proto 0.14.1, netlink-packet-generic 0.5.0, netlink-sys 0.9.0:
#
#   raw: 3 interfaces, flags 0x0 0x0 0x0
#   netlink-proto: 1 of 3 interfaces
#
# Way round: read the socket oneself until NLMSG_DONE, or ask for each interface by its index.
set -eu
command -v cargo >/dev/null && command -v unshare >/dev/null && command -v python3 >/dev/null || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "dump"
version = "0.0.0"
edition = "2024"
[dependencies]
futures-util = "=0.3.31"
netlink-packet-core = "=0.9.0"
netlink-packet-generic = "=0.5.0"
netlink-proto = "=0.14.1"
netlink-sys = "=0.9.0"
tokio = { version = "=1.47.1", features = ["macros", "rt", "net"] }
TOML
cat >"$dir/src/main.rs" <<'RUST'
use futures_util::StreamExt as _;
use netlink_packet_core::{DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{SocketAddr, protocols::NETLINK_GENERIC};

/// The attributes as they are.
#[derive(Clone, Debug)]
struct Device(Vec<u8>);
impl GenlFamily for Device {
    fn family_name() -> &'static str { "netdev" }
    fn command(&self) -> u8 { 1 }
    fn version(&self) -> u8 { 1 }
}
impl Emitable for Device {
    fn buffer_len(&self) -> usize { self.0.len() }
    fn emit(&self, buffer: &mut [u8]) { buffer.copy_from_slice(&self.0) }
}
impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> { Ok(Device(bytes.to_vec())) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let id: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let (connection, handle, _) = netlink_proto::new_connection::<GenlMessage<Device>>(NETLINK_GENERIC).unwrap();
    tokio::spawn(connection);
    let mut ask = GenlMessage::from_payload(Device(Vec::new()));
    ask.set_resolved_family_id(id);
    let mut message = NetlinkMessage::from(ask);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut answers = handle.request(message, SocketAddr::new(0, 0)).unwrap();
    let mut n = 0;
    while let Some(answer) = answers.next().await {
        n += usize::from(matches!(answer.payload, NetlinkPayload::InnerMessage(_)));
    }
    println!("{n}");
}
RUST
cat >"$dir/raw.py" <<'PYTHON'
import socket, struct
def message(kind, flags, seq, payload): return struct.pack("=IHHII", 16 + len(payload), kind, flags, seq, 0) + payload
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
s.bind((0, 0))
name = b"netdev\0"
s.send(message(16, 1, 1, struct.pack("=BBH", 3, 1, 0) + struct.pack("=HH", 4 + len(name), 2) + name + b"\0"))
answer, at, family = s.recv(65536), 20, None
while at < len(answer):
    length, kind = struct.unpack_from("=HH", answer, at)
    if length < 4: break
    if kind == 1: family = struct.unpack_from("=H", answer, at + 4)[0]
    at += (length + 3) & ~3
if family is None: raise SystemExit(77)
s.send(message(family, 1 | 0x300, 2, struct.pack("=BBH", 1, 1, 0)))
flags, done = [], False
while not done:
    answer, at = s.recv(65536), 0
    while at < len(answer):
        length, kind, flag = struct.unpack_from("=IHH", answer, at)
        if kind == 3: done = True
        else: flags.append(hex(flag))
        at += (length + 3) & ~3
print(family, len(flags), *flags)
PYTHON
cargo build --quiet --release --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target"
# A network namespace of its own, with three interfaces: the loopback and a veth pair.
unshare --net sh -c '
    ip link add d0 type veth peer name d1
    raw=$(python3 "$1/raw.py") || exit $?
    set -- "$1" $raw
    all=$3 family=$2; dir=$1; shift 3
    echo "raw: $all interfaces, flags $*"
    got=$("$dir/target/release/dump" "$family")
    echo "netlink-proto: $got of $all interfaces"
    [ "$all" = 3 ] && [ "$1" = 0x0 ] && [ "$got" = 1 ] || { echo "it is not so any more" >&2; exit 1; }
' sh "$dir"
