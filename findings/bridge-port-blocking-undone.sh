#!/bin/sh
# Without a spanning tree a port of a Linux bridge cannot be blocked by its state: `ip link set PORT type bridge_slave state 4`
# (blocking) and `state 0` (disabled) end with 0, and the port forwards as before; the kernel chooses its state anew in the
# same call. `state 1` (listening), which is meant as a step on the way to forwarding, does stay, and nothing passes then. So
# who takes a port out of a bridge by hand, or tests what others make of a blocked one, gets an open port and no error.
#
# Seen with Linux 6.18.44 (x86-64) and iproute2 6.1.0. Printed:
#   set to blocking (4): ends with 0, is forwarding, 3 of 3 datagrams arrive
#   set to disabled (0): ends with 0, is forwarding, 3 of 3 datagrams arrive
#   set to listening (1): ends with 0, is listening, 0 of 3 datagrams arrive
#
# Needs root, ip, python3.
set -eu
for tool in ip python3; do
    command -v "$tool" >/dev/null || { echo "no $tool"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "needs root"; exit 77; }
id=$$
left="finding-l$id"
middle="finding-m$id"
right="finding-r$id"
trap 'for ns in "$left" "$middle" "$right"; do ip netns del "$ns" 2>/dev/null || true; done' EXIT
for ns in "$left" "$middle" "$right"; do
    ip netns add "$ns"
done
ip -n "$middle" link add br0 type bridge stp_state 0 || { echo "no bridge"; exit 77; }
ip -n "$middle" link set br0 up
n=1
for ns in "$left" "$right"; do
    ip -n "$ns" link add eth0 type veth peer name "port$n" netns "$middle"
    ip -n "$ns" addr add "192.0.2.$n/24" dev eth0
    ip -n "$ns" link set eth0 up
    ip -n "$middle" link set "port$n" master br0 up
    n=$((n + 1))
done
# Neighbours that are known need no frames of their own.
for pair in "$left 192.0.2.2 $right" "$right 192.0.2.1 $left"; do
    # shellcheck disable=SC2086
    set -- $pair
    station=$(ip netns exec "$3" cat /sys/class/net/eth0/address)
    ip -n "$1" neigh add "$2" lladdr "$station" dev eth0
done

receive='
import socket
inward = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inward.bind(("192.0.2.2", 9999))
print("ready", flush=True)
inward.settimeout(1)
n = 0
try:
    while n < 3:
        inward.recv(9)
        n += 1
except TimeoutError:
    pass
print(n)
'
send='
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    out.sendto(b"x", ("192.0.2.2", 9999))
'
said=$(mktemp)
trap 'rm -f "$said"; for ns in "$left" "$middle" "$right"; do ip netns del "$ns" 2>/dev/null || true; done' EXIT
arrived() {
    ip netns exec "$right" python3 -c "$receive" >"$said" &
    until grep -q ready "$said"; do sleep 0.05; done
    ip netns exec "$left" python3 -c "$send"
    wait $!
    tail -n 1 "$said"
}
until [ "$(arrived)" = 3 ]; do sleep 0.2; done

failed=0
try() { # number, its word, the state that follows, datagrams that arrive
    ended=0
    ip -n "$middle" link set port2 type bridge_slave state "$1" || ended=$?
    state=$(ip -n "$middle" -d link show port2 | sed -n 's/.*bridge_slave state \([a-z]*\).*/\1/p')
    n=$(arrived)
    echo "set to $2 ($1): ends with $ended, is $state, $n of 3 datagrams arrive"
    [ "$ended $state $n" = "0 $3 $4" ] || failed=1
}
try 4 blocking forwarding 3
try 0 disabled forwarding 3
try 1 listening listening 0
if [ "$failed" != 0 ]; then
    echo "it is not so any more"
    exit 1
fi
