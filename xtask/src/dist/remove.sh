# The package removed while its gateway is there: programs, maps and the VIP go with it.
set -eux
ip link set lo up
for name in eth0 eth1; do
    ip link add $name type veth peer name peer-$name
    ip link set $name up
done
ip address add 198.51.100.1/24 dev eth0
steer agent --config /etc/steer/steer.toml 2> /run/agent.log &
for _ in $(seq 120); do if steer backends list; then there=yes; break; fi; sleep 0.5; done
test "${there-}" = yes || { cat /run/agent.log; exit 1; }
ip address show dev eth0 | grep -q 198.51.100.10
dpkg --remove steer
test ! -e /sys/fs/bpf/steer
! ip address show dev eth0 | grep -q 198.51.100.10
