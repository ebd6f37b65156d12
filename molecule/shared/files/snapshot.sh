#!/bin/sh
# All of this node that a run could leave something in, a line each, without what changes by itself or with a reboot (the order of a
# table's chains, a size that ipset shows where the tool made the set, link-local addresses, the other end of a link, sctp, which others
# load, a file that keepalived makes when it runs).
export LC_ALL=C
for tool in iptables ip6tables; do
    # Built-in chains come into being when they are looked at, and accept.
    "$tool-save" | sed -E "/^#/d; /^:[A-Z]+ ACCEPT/d; /^(\*|COMMIT)/d; s/ \[[0-9:]*\]$//; s/^/$tool /"
done
nft -s list tables | grep -Ev '^table ip6? (filter|nat|mangle|raw)$' | while read -r _ family table; do
    nft -s list table "$family" "$table" |
        awk -v "table=nft $family $table" '/^\t[a-z]/ { block = $2 } /^\t/ || /^table/ { print table, block "|", $0 }' |
        sort --stable --key=4,4
done
ipset save | sed 's/ initval [0-9a-fx]*//; s/ bucketsize [0-9]*//; s/^/ipset /' | sort
[ ! -e /proc/net/ip_vs ] || ipvsadm --save --numeric | sed 's/^/ipvs /' | sort
ip -oneline link | sed -E 's/ (qlen|state) .*//; s/@if[0-9]+//; s/^[0-9]+: /link /' | sort
bridge -details link | sed -E 's/^[0-9]+: /port /; s/ mcast_n_groups [0-9]+//' | sort
ip -oneline address | sed -E 's/ (valid_lft|proto) .*//; / fe80:/d; s/^[0-9]+: /address /' | sort
ip route | sed 's/^/route /'
sysctl --all 2> /dev/null | grep '^net\.' | grep -Ev '^net\.sctp|nf_conntrack_count'
files() {
    find /etc /usr/local /run/systemd/system /var/lib -xdev ! -path '/var/lib/systemd/*' ! -path '*/.ansible/*' \
        ! -path '/etc/iproute2/rt_addrprotos.d/keepalived.conf' "$@"
}
{ files -type f -exec sha256sum {} +; files -type l -printf '%l %p\n'; } | sed 's/^/file /' | sort -k 3
systemctl list-units --all --plain --no-legend 'layer4*' | sed 's/^/unit /'
find /run -name '*layer4*'
