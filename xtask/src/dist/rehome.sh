# docs/quickstart.md from its configuration to the first re-home, as root of a Debian 12 with the package: clients at eth0,
# two servers at eth1, each in a network namespace of its own.
set -eux
ip link set lo up
for host in client switch a b; do ip netns add $host; ip -n $host link set lo up; done
ip link add eth0 type veth peer name eth0 netns client
ip link add eth1 type veth peer name port netns switch
ip -n switch link add name lan type bridge
ip -n switch link set lan up
ip -n switch link set dev port master lan up
for server in a b; do
    ip -n $server link add eth0 type veth peer name $server netns switch
    ip -n switch link set dev $server master lan up
    ip -n $server link set eth0 up
done
ip address add 198.51.100.1/24 dev eth0
ip address add 10.0.0.1/24 dev eth1
ip link set eth0 up
ip link set eth1 up
ip route add 192.0.2.0/24 dev eth0
ip -n client address add 198.51.100.99/24 dev eth0
for n in $(seq 1 30); do ip -n client address add 192.0.2.$n/32 dev eth0; done
ip -n client link set eth0 up
ip -n client route add default via 198.51.100.1
ip -n a address add 10.0.0.11/24 dev eth0
ip -n b address add 10.0.0.12/24 dev eth0
for server in a b; do ip -n $server route add default via 10.0.0.1; done
echo 1 > /proc/sys/net/ipv4/ip_forward

cd /tmp
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout key -out certificate 2>&1
for server in a b; do
    ip netns exec $server openssl s_server -quiet -www -no_ticket -accept 443 -key key -cert certificate > /dev/null &
done

# The configuration that the page tells.
sed -n '/^```toml$/,/^```$/{/^```/d;p}' /usr/share/doc/steer/docs/quickstart.md > steer.toml
install -D -m 644 steer.toml /etc/steer/steer.toml
steer doctor || test $? = 1
steer agent --config /etc/steer/steer.toml 2> agent.log &
agent=$!
for _ in $(seq 120); do if steer status; then healthy=yes; break; fi; sleep 0.5; done
test "${healthy-}" = yes || { cat agent.log; exit 1; }
steer doctor

visit() {
    ip netns exec client openssl s_client -connect 198.51.100.10:443 -tls1_2 "$@" < /dev/null 2> /dev/null
}
visit -bind 192.0.2.1 -sess_out session > first
for n in $(seq 2 30); do
    visit -bind 192.0.2.$n -sess_in session > again
    grep -q Reused again
done
steer stats | tee stats
grep -q '^rehome' stats
steer backends list
steer why 192.0.2.2
steer top --once
steer sysdump -o /tmp/steer.tar.gz
kill $agent
wait $agent
steer detach
rm -r /tmp/*
