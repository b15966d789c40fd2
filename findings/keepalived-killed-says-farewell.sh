#!/bin/sh
# SIGKILL of keepalived is an orderly end of its VRRP: the process with the number in the file of `--pid` only watches over a
# worker, and the kernel sends that one SIGTERM when the other is gone (PR_SET_PDEATHSIG). So the worker takes the virtual
# addresses off and sends an advertisement of priority 0, and the standby takes over at once instead of after three intervals
# of silence. `kill -9` or the OOM killer's choice of that process shows a better failover than a machine that dies. To see
# what a dying machine leaves, stop the first process, kill the worker, then the first: the addresses stay on the interface,
# and nothing is sent.
#
# Seen with keepalived 2.2.7 and Linux 6.18.44 (x86-64). Printed:
#   main process killed: the address is gone, priority 0 was sent
#   both killed, the main process stopped first: the address stays, nothing was sent
#
# Needs root, ip, keepalived.
set -eu
for tool in ip keepalived; do
    command -v "$tool" >/dev/null || { echo "no $tool"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "needs root"; exit 77; }
ns="finding-k$$"
files=$(mktemp -d)
main=
worker=
clean() {
    for process in $main $worker; do
        kill -9 "$process" 2>/dev/null || true
    done
    ip netns del "$ns" 2>/dev/null || true
    rm -rf "$files"
}
trap clean EXIT
ip netns add "$ns" || { echo "no network namespaces"; exit 77; }
ip -n "$ns" link add eth0 type veth peer name eth1
ip -n "$ns" link set eth1 up
ip -n "$ns" link set eth0 up
ip -n "$ns" addr add 192.0.2.11/24 dev eth0

cat > "$files/keepalived.conf" <<'CONF'
global_defs {
    vrrp_version 3
}
vrrp_instance finding {
    state BACKUP
    interface eth0
    virtual_router_id 9
    priority 100
    advert_int 0.2
    virtual_ipaddress {
        192.0.2.1/24
    }
}
CONF

has_address() {
    ip -n "$ns" -o -4 addr show dev eth0 | grep -q '192\.0\.2\.1/'
}

# Starts keepalived, and waits until it has the address.
start() {
    rm -f "$files/main" "$files/worker" "$files/log"
    ip netns exec "$ns" keepalived --dont-fork --log-console --log-detail --vrrp --use-file "$files/keepalived.conf" \
        --pid "$files/main" --vrrp_pid "$files/worker" > "$files/log" 2>&1 &
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 0.5
        if has_address; then
            main=$(cat "$files/main")
            worker=$(cat "$files/worker")
            return
        fi
    done
    cat "$files/log"
    echo "keepalived does not become master here"
    exit 77
}

# What is left a second after its end.
left() {
    sleep 1
    if has_address; then address="stays"; else address="is gone"; fi
    if grep -q 'sent 0 priority' "$files/log"; then sent="priority 0 was"; else sent="nothing was"; fi
    main=
    worker=
    echo "$1: the address $address, $sent sent"
}

start
kill -9 "$main"
left "main process killed" > "$files/first"
cat "$files/first"
start
kill -STOP "$main"
kill -9 "$worker"
kill -9 "$main"
left "both killed, the main process stopped first" > "$files/second"
cat "$files/second"

if ! grep -q 'is gone, priority 0 was sent' "$files/first"; then
    echo "keepalived's worker does not end in order any more when the main process is killed"
    exit 1
fi
if ! grep -q 'stays, nothing was sent' "$files/second"; then
    echo "a worker that is killed leaves something else than its address"
    exit 1
fi
