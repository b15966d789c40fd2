#!/bin/sh
# gunicorn 27.0.1 with --certfile makes a TLS context for each connection. OpenSSL draws the key of session tickets with the
# context, so every ticket is issued under a key that is gone before it can come back: tickets are given out and never resume,
# at one worker as at many. The same Python with one context for all its connections (http.server behind ssl.wrap_socket)
# resumes. A gateway that keeps sessions at their server finds an owner for each ticket here, and moves flows for nothing.
#
# Seen with gunicorn 27.0.1 (PyPI), Python 3.11, OpenSSL 3.0.19 at both ends, TLS 1.2, ten connections that each offer the
# ticket of the one before:
#
#   gunicorn: 10 key names, 0 of 9 resumed
#   one context: 1 key names, 9 of 9 resumed
set -eu
command -v openssl >/dev/null && python3 -c 'import venv, ssl' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install gunicorn==27.0.1
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
cat >"$dir/app.py" <<'PYTHON'
def app(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PYTHON
cat >"$dir/one.py" <<'PYTHON'
import http.server, ssl, sys
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
PYTHON
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Prints how many key names and how many resumptions ten connections to port $1 see.
visits() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        python3 -c "import socket; socket.create_connection(('127.0.0.1', $1))" 2>/dev/null && break
        sleep 0.5
    done
    rm -f "$dir/session"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        offer=
        [ ! -s "$dir/session" ] || offer="-sess_in $dir/session"
        # shellcheck disable=SC2086
        openssl s_client -connect "127.0.0.1:$1" -tls1_2 $offer -sess_out "$dir/session" </dev/null 2>/dev/null
    done >"$dir/out"
    echo "$(sed -n 's/^ *0000 - \([0-9a-f -]*\)  .*/\1/p' "$dir/out" | sort -u | wc -l) $(grep -c '^Reused' "$dir/out" || true)"
}

cd "$dir"
port=$(free_port)
"$dir/venv/bin/gunicorn" --log-level critical --workers 1 --bind "127.0.0.1:$port" --certfile cert.pem --keyfile key.pem app:app &
server=$!
each=$(visits "$port")
kill "$server"; wait "$server" 2>/dev/null || true
port=$(free_port)
python3 one.py "$port" 2>/dev/null &
server=$!
one=$(visits "$port")
echo "gunicorn: ${each% *} key names, ${each#* } of 9 resumed"
echo "one context: ${one% *} key names, ${one#* } of 9 resumed"
if [ "$each" = "10 0" ] && [ "${one#* }" -eq 9 ]; then exit 0; fi
echo "gunicorn does not draw a ticket key for each connection any more"
exit 1
