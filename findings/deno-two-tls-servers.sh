#!/bin/sh
# One Deno program can hold two TLS servers that keep sessions in different ways. Deno.serve answers TLS 1.3 with tickets of 32
# bytes, keys of entries in its memory, each good for one use and none like another. A server of node:tls beside it issues
# long tickets that begin with the same 16 bytes (the name of their key) and can be offered again. What tells one server's
# clients from another's works for one of the two only, in the same process, with the same certificate.
#
# Seen with Deno 2.9.8 (PyPI deno 2.9.8) and as a client OpenSSL 3.0.19, two full handshakes each, then one ticket offered
# twice:
#
#   Deno.serve: 32 bytes, names differ, offered twice: resumed once
#   node:tls: 144 bytes, names agree, offered twice: resumed twice
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install deno==2.9.8
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
    -subj /CN=localhost -addext basicConstraints=critical,CA:FALSE 2>/dev/null
cat >"$dir/servers.js" <<'JS'
import tls from "node:tls";
const [key, cert] = ["key.pem", "cert.pem"].map((name) => Deno.readTextFileSync(name));
const [first, second] = Deno.args.map(Number);
Deno.serve({ hostname: "127.0.0.1", port: first, key, cert }, () => new Response("ok"));
tls.createServer({ key, cert }, (socket) => {
  socket.on("error", () => {});
  socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"));
}).listen(second, "127.0.0.1");
JS
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
first=$(free_port)
second=$(free_port)
cd "$dir"
HOME=$dir DENO_DIR=$dir/deno "$dir/venv/bin/deno" run --quiet --allow-net --allow-read servers.js "$first" "$second" >log 2>&1 &
server=$!
for port in "$first" "$second"; do
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null && break
        sleep 0.5
    done
done

# One connection to port $1 with the other arguments.
visit() {
    at=$1
    shift
    { printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'; sleep 1; } |
        openssl s_client -connect "127.0.0.1:$at" -tls1_3 -ign_eof "$@" 2>/dev/null
}

# Length of a ticket, whether two handshakes show one name, and how often one ticket resumes.
look() {
    visit "$1" -sess_out one >out
    visit "$1" >>out
    tickets=$(grep -c 'TLS session ticket:' out || true)
    length=$(($(grep -c '^ *[0-9a-f]*0 - ' out || true) / tickets * 16))
    names=$(sed -n 's/^ *0000 - \([0-9a-f -]*\)  .*/\1/p' out | sort -u | wc -l)
    agree=differ
    [ "$names" -gt 1 ] || agree=agree
    resumed=0
    for _ in 1 2; do ! visit "$1" -sess_in one | grep -q '^Reused' || resumed=$((resumed + 1)); done
    times=$(echo "never once twice" | cut -d' ' -f$((resumed + 1)))
    echo "$length bytes, names $agree, offered twice: resumed $times"
}

serve=$(look "$first")
node=$(look "$second")
echo "Deno.serve: $serve"
echo "node:tls: $node"
case $node in "32 bytes"*) node= ;; esac
if [ "$serve" = "32 bytes, names differ, offered twice: resumed once" ] &&
    [ "${node#* bytes, }" = "names agree, offered twice: resumed twice" ]; then exit 0; fi
echo "Deno's two TLS servers do not keep sessions in these two ways any more"
exit 1
