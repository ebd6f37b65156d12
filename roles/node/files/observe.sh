#!/bin/sh
# Says what the role needs to know of a host, one finding a line. Changes nothing.
# Usage: observe.sh TOOLS MODULES SYSCTLS SYSCTL_FILE LOCAL_CIDRS FILES; the lists have blanks between their items.
# A module is NAME=PROOF: with the file PROOF there, the kernel has it, be it loaded or built in. One that is missing is said to
# be unavailable too if nothing can load it.
set -eu
tools=$1 modules=$2 sysctls=$3 sysctl_file=$4 local_cidrs=$5 files=$6

for tool in $tools; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" > /dev/null || echo "missing-tool $tool"
done

[ -e /proc/modules ] || echo "no-loadable-modules"
for module in $modules; do
    name=${module%%=*}
    [ ! -e "${module#*=}" ] || continue
    ! grep -qs "/$name\.ko" "/lib/modules/$(uname -r)/modules.builtin" || continue
    if [ ! -e /proc/modules ]; then
        # What is built in has no sign of its own: a kernel with IPVS has its schedulers.
        case $name in ip_vs_*) continue ;; esac
    fi
    echo "missing-module $name"
    [ -e /proc/modules ] && PATH="$PATH:/usr/sbin:/sbin" modprobe --dry-run --quiet "$name" || echo "unavailable-module $name"
done

for directory in /sys/class/net/*/bridge; do
    [ -d "$directory" ] || continue
    for cidr in $local_cidrs; do
        [ -z "$(ip -oneline address show dev "$(basename "${directory%/bridge}")" to "$cidr")" ] || echo "local-bridge"
    done
done

for directory in /etc/systemd/network /etc/NetworkManager/conf.d; do
    [ ! -d "$directory" ] || echo "manager $directory"
done

for file in $files; do
    [ ! -e "$file" ] || echo "present $file"
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

# A key that does not exist yet belongs to a module that is not loaded; these are its defaults.
for key in $sysctls; do
    path=/proc/sys/$(echo "$key" | tr . /)
    if [ -r "$path" ]; then
        echo "now $key=$(cat "$path")"
    else
        case $key in
            net.ipv4.vs.conn_reuse_mode) echo "now $key=1" ;;
            net.bridge.* | net.ipv4.vs.*) echo "now $key=0" ;;
        esac
    fi
done
