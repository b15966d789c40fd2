#!/bin/sh
# Where an interface's gso_max_size lets Linux make IPv6 packets of more than 64 KB ("BIG TCP"), packet sockets and TC programs
# see them with a hop-by-hop header of eight bytes in front of TCP: the jumbo payload option of RFC 2675. No segment on a wire
# ever has it, the kernel takes it away where it cuts the packet up. So in one connection, by the size of the send queue alone,
# some packets have 40 bytes of IP headers, a payload length that is right and TCP at once, and others 48 bytes, a payload
# length of 0 and TCP behind an extension header. Whoever adds header length and segment size to compare them with an MTU
# finds the large ones eight bytes too long; whoever filters by "next header is TCP" loses just these.
#
# Seen with Linux 6.18.44 and iproute2 6.1.0, 30 MB between two namespaces over veth, gso_max_size 150000, as root:
#
#   up to 64 KB: next header 6
#   above 64 KB: next header 0, payload length 0, option c204
set -eu
[ "$(id -u)" -eq 0 ] && command -v ip >/dev/null && command -v python3 >/dev/null || exit 77
from=bigtcp-a-$$
to=bigtcp-b-$$
dir=$(mktemp -d)
trap 'ip netns del "$from" 2>/dev/null || true; ip netns del "$to" 2>/dev/null || true; rm -rf "$dir"' EXIT
ip netns add "$from" && ip netns add "$to" || exit 77
ip -n "$from" link add e0 type veth peer name e0 netns "$to" || exit 77
for ns in "$from" "$to"; do
    ip -n "$ns" link set e0 gso_max_size 150000 2>/dev/null || exit 77
    ip -n "$ns" link set e0 up
done
ip -n "$from" addr add fd00::1/64 dev e0 nodad
ip -n "$to" addr add fd00::2/64 dev e0 nodad
cat >"$dir/sink.py" <<'PYTHON'
import socket
listener = socket.socket(socket.AF_INET6)
listener.bind(("::", 5))
listener.listen()
connection, _ = listener.accept()
while connection.recv(1 << 20):
    pass
PYTHON
cat >"$dir/watch.py" <<'PYTHON'
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86dd))
wire.bind(("e0", 0))
wire.settimeout(3)
print("ready", flush=True)
small, large = set(), set()
try:
    while True:
        frame, at = wire.recvfrom(1 << 18)
        ip = frame[14:]
        if at[2] == socket.PACKET_OUTGOING or 58 in (ip[6], ip[40] if ip[6] == 0 else 0):
            continue
        if len(ip) <= 65535 + 40:
            small.add(f"next header {ip[6]}")
        else:
            length = int.from_bytes(ip[4:6], "big")
            large.add(f"next header {ip[6]}, payload length {length}, option {ip[42:44].hex()}")
except TimeoutError:
    pass
print("up to 64 KB:", "; ".join(sorted(small)) or "none")
print("above 64 KB:", "; ".join(sorted(large)) or "none")
PYTHON
ip netns exec "$to" python3 "$dir/sink.py" &
ip netns exec "$to" python3 "$dir/watch.py" >"$dir/seen" &
watcher=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q ready "$dir/seen" && break; sleep 0.3; done
sleep 0.5
ip netns exec "$from" python3 -c '
import socket
connection = socket.create_connection(("fd00::2", 5))
for _ in range(30):
    connection.sendall(bytes(1 << 20))
connection.close()'
wait "$watcher"
sed -i /ready/d "$dir/seen"
cat "$dir/seen"
if grep -q '^above 64 KB: none' "$dir/seen"; then exit 77; fi
printf 'up to 64 KB: next header 6\nabove 64 KB: next header 0, payload length 0, option c204\n' | cmp -s - "$dir/seen" && exit 0
echo "IPv6 packets above 64 KB look otherwise now"
exit 1
