#!/bin/sh
# Says what the role needs to know of a host, one finding a line. Changes nothing.
# Usage: observe.sh TOOLS MODULES SYSCTLS SYSCTL_FILE LOCAL_CIDRS; the lists have blanks between their items.
# A module is NAME=PROOF: with the file PROOF there, the kernel has it, be it loaded or built in.
set -eu
tools=$1 modules=$2 sysctls=$3 sysctl_file=$4 local_cidrs=$5

for tool in $tools; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" > /dev/null || echo "missing-tool $tool"
done

for module in $modules; do
    [ -e "${module#*=}" ] || echo "missing-module ${module%%=*}"
done
[ -e /proc/modules ] || echo "no-loadable-modules"

for directory in /sys/class/net/*/bridge; do
    [ -d "$directory" ] || continue
    for cidr in $local_cidrs; do
        [ -z "$(ip -oneline address show dev "$(basename "${directory%/bridge}")" to "$cidr")" ] || echo "local-bridge"
    done
done

found=
if [ -e "$sysctl_file" ]; then
    found=$(sed -n 's/^# found //p' "$sysctl_file")
    sed -n 's/^\([a-z]\)/kept \1/p' "$sysctl_file"
fi
for item in $found; do
    echo "found $item"
    sysctls="$sysctls ${item%%=*}"
done

# A key that does not exist yet belongs to a module that is not loaded, which does what 0 does.
for key in $sysctls; do
    path=/proc/sys/$(echo "$key" | tr . /)
    if [ -r "$path" ]; then
        echo "now $key=$(cat "$path")"
    else
        case $key in
            net.bridge.* | net.ipv4.vs.*) echo "now $key=0" ;;
        esac
    fi
done
