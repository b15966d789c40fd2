#!/bin/sh
# A veth drops what is longer than the MTU of the *receiving* end, without a word to the sender, unless it is several TCP
# segments in one. A router whose end of a veth has a smaller MTU than the other end's so takes a client's burst of full
# segments, and loses each of them that comes alone: a transfer goes well until something is sent again, and then stands
# still. On Ethernet hardware the larger frame would arrive (or be counted as too long); no ICMP error is sent in either case,
# for the packet is too long for where it comes from, not for where it goes.
#
# Seen with Linux 6.18.44 (x86-64). Printed:
#   end of the router: MTU 1300; the client's: MTU 1500; MSS of the connection: 1460
#   10 segments of 1448 bytes at once: 14480 bytes arrived
#   1 segment of 1448 bytes alone: 0 bytes arrived within 3 s
#   1 segment of 1200 bytes alone: 1200 bytes arrived
#   dropped at the client's end: yes
#
# Needs root, ip, python3.
set -eu
for tool in ip python3; do
    command -v "$tool" >/dev/null || { echo "no $tool"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "needs root"; exit 77; }
id=$$
client="finding-c$id"
router="finding-r$id"
server="finding-s$id"
trap 'for ns in "$client" "$router" "$server"; do ip netns del "$ns" 2>/dev/null || true; done' EXIT
for ns in "$client" "$router" "$server"; do
    ip netns add "$ns"
    ip -n "$ns" link set lo up
done
ip -n "$client" link add eth0 type veth peer name left netns "$router" || { echo "no veth"; exit 77; }
ip -n "$server" link add eth0 type veth peer name right netns "$router"
ip -n "$client" addr add 192.0.2.2/24 dev eth0
ip -n "$router" addr add 192.0.2.1/24 dev left
ip -n "$router" addr add 198.51.100.1/24 dev right
ip -n "$server" addr add 198.51.100.2/24 dev eth0
ip -n "$router" link set left mtu 1300
for pair in "$client eth0" "$router left" "$router right" "$server eth0"; do
    # shellcheck disable=SC2086
    set -- $pair
    ip -n "$1" link set "$2" up
done
ip -n "$client" route add default via 192.0.2.1
ip -n "$server" route add default via 198.51.100.1
ip netns exec "$router" sysctl -qw net.ipv4.ip_forward=1

python3 - "$client" "$server" <<'P'
import os, socket, sys, time

client, server = sys.argv[1:]


def within(name, make):
    """A socket of a namespace."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    os.setns(there, os.CLONE_NEWNET) if hasattr(os, "setns") else setns(there)
    try:
        return make()
    finally:
        os.setns(here, os.CLONE_NEWNET) if hasattr(os, "setns") else setns(here)
        os.close(here)
        os.close(there)


def setns(fd):
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def dropped():
    path = "/sys/class/net/eth0/statistics/tx_dropped"
    done = os.popen(f"ip netns exec {client} cat {path}").read()
    return int(done)


def arrived(length):
    listener = within(server, lambda: socket.create_server(("198.51.100.2", 0)))
    port = listener.getsockname()[1]
    out = within(client, lambda: socket.create_connection(("198.51.100.2", port), 5))
    inward, _ = listener.accept()
    out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    mss = out.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    out.send(b"x" * length)
    inward.settimeout(0.2)
    got, end = 0, time.monotonic() + 3
    while got < length and time.monotonic() < end:
        try:
            got += len(inward.recv(1 << 16))
        except TimeoutError:
            pass
    # Nothing is to be sent again.
    out.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    out.close()
    inward.close()
    return got, mss


before = dropped()
burst, mss = arrived(14480)
print(f"end of the router: MTU 1300; the client's: MTU 1500; MSS of the connection: {mss + 12}")
print(f"10 segments of 1448 bytes at once: {burst} bytes arrived")
alone, _ = arrived(1448)
print(f"1 segment of 1448 bytes alone: {alone} bytes arrived within 3 s")
small, _ = arrived(1200)
print(f"1 segment of 1200 bytes alone: {small} bytes arrived")
counted = dropped() > before
print(f"dropped at the client's end: {'yes' if counted else 'no'}")
if (burst, alone, small, counted) != (14480, 0, 1200, True):
    print("it is not so any more")
    sys.exit(1)
P
