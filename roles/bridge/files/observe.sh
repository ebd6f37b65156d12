#!/bin/sh
# Says which bridges there are, their ports and modes, and what the role has left, one finding a line: of files that are there
# "link TARGET PATH" or "file MODE SHA1 PATH". Changes nothing.
# Usage: observe.sh LOCAL_CIDRS CHAIN RECORD FILE...; the networks have blanks between them.
set -eu
local_cidrs=$1 chain=$2 record=$3
shift 2

for directory in /sys/class/net/*/bridge; do
    [ -d "$directory" ] || continue
    bridge=$(basename "${directory%/bridge}")
    echo "bridge $bridge"
    for cidr in $local_cidrs; do
        [ -z "$(ip -oneline address show dev "$bridge" to "$cidr")" ] || { echo "local $bridge"; break; }
    done
    # IFF_PROMISC of linux/if.h
    [ $(($(cat "/sys/class/net/$bridge/flags") & 0x100)) -eq 0 ] || echo "on promisc $bridge"
    for port in "/sys/class/net/$bridge/brif"/*; do
        [ -d "$port" ] || continue
        echo "port $bridge $(basename "$port")"
        link=/sys/class/net/$(basename "$port")
        # A network card, or what stands on one, such as a bond or a VLAN.
        for below in "$link/device" "$link"/lower_*; do
            [ ! -e "$below" ] || { echo "uplink $(basename "$port")"; break; }
        done
        [ "$(cat "$port/hairpin_mode")" = 0 ] || echo "on hairpin $(basename "$port")"
    done
done

for tool in iptables ip6tables; do
    ! PATH="$PATH:/usr/sbin:/sbin" "$tool" --wait -t filter -S "$chain" > /dev/null 2>&1 || echo "chain $tool"
done

[ ! -e "$record" ] || sed 's/^/recorded /' "$record"
for file; do
    if [ -L "$file" ]; then
        echo "link $(readlink "$file") $file"
    elif [ -e "$file" ]; then
        echo "file $(stat -c %a "$file") $(sha1sum < "$file" | cut -d ' ' -f 1) $file"
    fi
done
[ ! -d /etc/udev/rules.d ] || echo udev
[ ! -d /run/systemd/system ] || echo systemd
