# The installed package at work, as root of a Debian 12: each line is a check.
set -eux
steer --version
steer --help | grep -q bypass
steer config check /usr/share/doc/steer/examples/steer.toml
man -P cat steer | grep -q bypass
man -P cat steer-backends-drain | grep -q -- --for
test -f /lib/systemd/system/steer.service || test -f /usr/lib/systemd/system/steer.service
. /usr/share/bash-completion/completions/steer
COMP_WORDS=(steer backends dr) COMP_CWORD=2
_steer steer dr backends
test "${COMPREPLY[*]}" = drain
