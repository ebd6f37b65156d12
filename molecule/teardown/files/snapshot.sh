#!/bin/sh
# All of this node that a run could leave something in, a line each, without what changes by itself.
export LC_ALL=C
for tool in iptables ip6tables; do
    # Built-in chains come into being when they are looked at, and accept.
    "$tool-save" | sed -E "/^#/d; /^:[A-Z]+ ACCEPT/d; /^(\*|COMMIT)/d; s/ \[[0-9:]*\]$//; s/^/$tool /"
done
ipset save | sed 's/ initval [0-9a-fx]*//; s/^/ipset /'
ip -oneline link | sed -E 's/ (qlen|state) .*//; s/^[0-9]+: /link /'
bridge -details link | sed -E 's/^[0-9]+: /port /; s/ mcast_n_groups [0-9]+//'
ip -oneline address | sed -E 's/ (valid_lft|proto) .*//; s/^[0-9]+: /address /'
ip route | sed 's/^/route /'
sysctl --all 2> /dev/null | grep '^net\.' | grep -v nf_conntrack_count
find /etc /usr/local /run/systemd/system /var/lib -xdev \( -type f -o -type l \) ! -path '/var/lib/systemd/*' ! -path '*/.ansible/*' \
    -exec sh -c 'for file; do echo "file $file $(readlink "$file" || sha256sum < "$file")"; done' sh {} + | sort
systemctl list-units --all --plain --no-legend 'layer4*' | sed 's/^/unit /'
find /run -name '*layer4*'
