#!/bin/sh
# Says which bridges there are, their ports and modes, and what the role has left, one finding a line. Changes nothing.
# Usage: observe.sh RECORD FILE...
set -eu
record=$1

for directory in /sys/class/net/*/bridge; do
    [ -d "$directory" ] || continue
    bridge=$(basename "${directory%/bridge}")
    echo "bridge $bridge"
    # IFF_PROMISC of linux/if.h
    [ $(($(cat "/sys/class/net/$bridge/flags") & 0x100)) -eq 0 ] || echo "on promisc $bridge"
    for port in "/sys/class/net/$bridge/brif"/*; do
        [ -d "$port" ] || continue
        echo "port $bridge $(basename "$port")"
        [ "$(cat "$port/hairpin_mode")" = 0 ] || echo "on hairpin $(basename "$port")"
    done
done

[ ! -e "$record" ] || sed 's/^/recorded /' "$record"
for file; do
    [ ! -e "$file" ] || echo "file $file"
done
[ ! -d /etc/udev/rules.d ] || echo udev
[ ! -d /run/systemd/system ] || echo systemd
