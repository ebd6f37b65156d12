#!/bin/sh
# Keeps what our services have put into the kernel for the next boot, and brings it back: iptables chains that carry our prefix with
# the jumps to them from built-in chains, our ipsets, our virtual services in IPVS, and the addresses of l4-ipvs0.
# Usage: rules.sh save|compare|restore|watch PREFIX DIRECTORY [GONE [TIMEOUTS [STATE [FILES]]]]
#   save     writes it all to DIRECTORY, or removes what is there when there is nothing
#   compare  does as save does, but writes nothing, and as if the chains named in GONE were gone: BRIDGE and BACKEND, with
#            SERVICES for all others, which take sets, virtual services and addresses along
#   restore  puts it back as it was: sets, rules in one transaction for each address family, virtual services, then addresses
#   watch    restores if someone else has removed our jumps, virtual services or device, unless a run of the roles is under way
# TIMEOUTS are those of IPVS to keep: TCP, TCP after FIN, UDP, in seconds; 0 leaves one alone.
# STATE is what vip_service calls the state of the rules, which no others have: what has been saved with it is not read again.
# save and compare say "changed" if what was kept differs, "kept" if there is anything to keep, and where systemd runs "systemd",
# "active UNIT" for each of our units that is, and of those of FILES that are there "link TARGET PATH" or "file MODE SHA1 PATH".
set -eu
export LC_ALL=C
action=$1 prefix=$2 directory=$3 gone=${4-} timeouts=${5-} state=${6-} files=${7-}
stamp=$directory/state
tables="filter mangle nat raw"
device=l4-ipvs0
# A run of the roles is under way while this file is there and no older than ten minutes.
run=/run/layer4-service-proxy.run

# With -v wanted=kept the chains and jumps as iptables-restore --noflush takes them; jumps stand at the same end of the
# built-in chain as they do now, and in the text in front of all chains but those that they lead to (many_chains).
# With -v wanted=deletions what takes the jumps away again, with -v wanted=targets the targets of all rules.
# shellcheck disable=SC2016
extract='
function target(rule,    words, count, i) {
    gsub(/"([^"\\]|\\.)*"/, "", rule)
    count = split(rule, words, " ")
    for (i = 1; i < count; i++)
        if (words[i] == "-j" || words[i] == "-g") return words[i + 1]
    return ""
}
function ours(chain,    name) {
    if (index(chain, prefix "-") != 1) return 0
    name = substr(chain, length(prefix) + 2)
    if (name != "BRIDGE" && name != "BACKEND") name = "SERVICES"
    return index(" " gone " ", " " name " ") == 0
}
function end_table(    i) {
    if (chains + rules + jumps) {
        print table
        for (i = 1; i <= chains; i++) if (chain_name[i] in led_to) print chain_line[i]
        for (i = 1; i <= jumps; i++) print jump[i]
        if (wanted == "kept") print "# the other chains"
        for (i = 1; i <= chains; i++) if (!(chain_name[i] in led_to)) print chain_line[i]
        for (i = 1; i <= rules; i++) print rule[i]
        print "COMMIT"
    }
    split("", built_in); split("", leading); split("", others); split("", user); split("", led_to)
    chains = rules = jumps = 0
}
/^\*/ { end_table(); table = $1 }
/^:/ {
    name = substr($1, 2)
    if ($2 != "-") built_in[name] = 1
    else user[name] = 1
    if (ours(name) && wanted == "kept") { chain_name[++chains] = name; chain_line[chains] = ":" name " - [0:0]" }
}
/^-A / {
    chain = $2
    if (wanted == "targets") {
        print target($0)
    } else if (ours(chain)) {
        if (wanted == "kept") rule[++rules] = $0
    } else if (chain in built_in) {
        to = target($0)
        rest = substr($0, length(chain) + 5)
        if (ours(to)) led_to[to] = 1
        if (ours(to) && wanted == "deletions") jump[++jumps] = "-D " chain " " rest
        else if (ours(to) && !(chain in others)) jump[++jumps] = "-I " chain " " ++leading[chain] " " rest
        else if (ours(to)) jump[++jumps] = "-A " chain " " rest
        else if (!(to in user)) others[chain] = 1
    }
}
END { end_table() }
'

# Only the tables that are in use: to ask the legacy iptables for another would load it.
tables_in_use() {
    command -v "$1" > /dev/null || return 0
    if "$1" -V | grep -q legacy; then
        used=$(tr '\n' ' ' < "/proc/net/${1%tables}_tables_names" 2> /dev/null || true)
    else
        used=$tables
    fi
    for table in $tables; do
        case " $used " in *" $table "*) echo "$table" ;; esac
    done
}

extracted() {
    for table in $(tables_in_use "$1"); do "$1-save" -t "$table"; done |
        awk -v prefix="$prefix" -v gone="$gone" -v wanted=kept "$extract"
}

# Usage: built_in_chains TOOL TABLE
built_in_chains() {
    echo "*$2"
    for chain in PREROUTING INPUT FORWARD OUTPUT POSTROUTING; do
        echo ":$chain ACCEPT"
        "$1" --wait -t "$2" -S "$chain" 2> /dev/null || true
    done
}

# What takes our jumps away, which takes no look at all the rules.
deletions() {
    for table in $(tables_in_use "$1"); do built_in_chains "$1" "$table"; done |
        awk -v prefix="$prefix" -v gone="$gone" -v wanted=deletions "$extract"
}

targets() {
    awk -v prefix="$prefix" -v wanted=targets "$extract"
}

# What is to be kept, but of the chains that are in those changes (below) only the names of those that jumps lead to: a look at
# few chains, however many services there are.
extracted_but_changes() {
    for table in $(tables_in_use "$1"); do
        chains=$(built_in_chains "$1" "$table")
        declared='' rules='' seen=''
        new=$(echo "$chains" | targets | sort -u)
        while [ -n "$new" ]; do
            led_to=
            for chain in $new; do
                case " $seen " in *" $chain "*) continue ;; esac
                seen="$seen $chain"
                own=$("$1" --wait -t "$table" -S "$chain" 2> /dev/null) || continue
                declared="$declared:$chain - [0:0]
"
                case $chain in "$prefix"-*) ;; *) continue ;; esac
                if grep -q "^:$chain " "$changes"; then continue; fi
                own=$(echo "$own" | sed -n '/^-A/p')
                rules="$rules$own
"
                led_to="$led_to $(echo "$own" | targets | grep "^$prefix-" || true)"
            done
            new=$led_to
        done
        echo "$chains" | sed -n '/^[*:]/p'
        printf %s "$declared" | sort
        echo "$chains" | sed -n '/^-A/p'
        printf %s "$rules" | sort -s -k 2,2
    done | awk -v prefix="$prefix" -v gone="$gone" -v wanted=kept "$extract"
}

services_are_gone() {
    case " $gone " in *" SERVICES "*) return 0 ;; esac
    return 1
}

# Our ipsets without what the kernel chooses itself; those in which backends remember their clients without the clients.
sets() {
    ! services_are_gone && command -v ipset > /dev/null || return 0
    names="$prefix-(AFF-[A-Z0-9]*|(6-)?(VIP|EXTERNAL|LOCAL|REJECT|GUARDED|SOURCES|ONE-WAY|BOUND|LOOP-BACK))"
    held=$(ipset save 2> /dev/null | sed -nE "/^(create|add) $names /p" | sed "/^add $prefix-AFF-/d")
    echo "$held" | sed -n '/^create/{s/hashsize [0-9]*/hashsize 64/; s/ bucketsize [0-9]*//; s/ initval [0-9a-fx]*//; p}' | sort
    echo "$held" | sed -n '/^add/p' | sort
}

# Those virtual services that the record in our sets has (docs/semantics.md), as ipvsadm --restore takes them, a service first.
virtual_services() {
    ! services_are_gone && command -v ipvsadm > /dev/null && [ -e /proc/net/ip_vs ] || return 0
    { ipset save 2> /dev/null; ipvsadm --save --numeric; } | awk -v prefix="$prefix" '
        $1 == "add" {
            name = substr($2, length(prefix) + 2); sub(/^6-/, "", name)
            if (index($2, prefix "-") == 1 && name ~ /^(VIP|EXTERNAL|LOCAL|REJECT)$/) recorded[$3] = 1
        }
        $1 == "-A" || $1 == "-a" {
            protocol = $2 == "-t" ? "tcp" : $2 == "-u" ? "udp" : $2 == "--sctp-service" ? "sctp" : ""
            address = $3; sub(/:[0-9]+$/, "", address); gsub(/[][]/, "", address)
            port = $3; sub(/.*:/, "", port)
            if ((address "," protocol ":" port) in recorded) print
        }
    ' | sort -k 2,3 -k 1,1 -k 4
}

addresses() {
    ! services_are_gone && [ -e "/sys/class/net/$device" ] || return 0
    ip -oneline address show dev "$device" scope global | awk '{ print $4 }' | sort
}

ipvs_timeouts() {
    ! services_are_gone && [ -e /proc/net/ip_vs ] || return 0
    case $timeouts in *[1-9]*) echo "$timeouts" ;; esac
}

# What the last run of vip_service has changed, in the words of iptables-restore, behind the states that it began and ended with,
# and "all" if there were no services before (_kernel/state_file.py of the collection). iptables-nft takes ten seconds to print ten
# thousand services.
changes=/run/layer4-service-proxy/${state%% *}.changes

changes_are_all() {
    [ "$(sed -n '3{p;q}' "$changes")" = all ]
}

# Whether those changes led to the state of now from nothing, or from the state in which was saved what is kept.
only_changes_are_new() {
    [ "$action" = save ] && [ -n "$state" ] && [ -z "$gone" ] && [ -e "$changes" ] || return 1
    [ "$(sed -n '2{p;q}' "$changes")" = "$state" ] || return 1
    if changes_are_all; then return 0; fi
    [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(stamped "$(sed -n '1{p;q}' "$changes")")" ]
}

# What is kept of iptables or ip6tables (tool) with those changes. Chains, and rules by their chains, are there in the order of
# names, as iptables-save prints them. Fails for changes of a table of which nothing is kept, and, unless it has all the jumps, of
# jumps.
# shellcheck disable=SC2016
merge='
function print_chains(last,    name) {
    while (chains < count[table] && (last == "" || order[table, chains + 1] <= last)) {
        name = order[table, ++chains]
        if (!((table, name) in removed) && !((table, name) in led_to)) print ":" name " - [0:0]"
    }
}
function print_rules(last) {
    while (lists < count[table] && (last == "" || order[table, lists + 1] <= last)) printf "%s", rules[table, order[table, ++lists]]
}
NR == FNR && /^# ip/ { section = $2 }
NR == FNR && section == tool && /^\*/ { table = $1; missing[table] = 1 }
NR == FNR && section == tool && /^:/ { name = substr($1, 2); order[table, ++count[table]] = name; rules[table, name] = "" }
NR == FNR && section == tool && /^-X/ { removed[table, $2] = 1 }
NR == FNR && section == tool && /^-[ADI]/ {
    if ((table, $2) in rules) rules[table, $2] = rules[table, $2] $0 "\n"
    else if (!has_jumps) failed = 1
}
NR == FNR { next }
/^\*/ { table = $1; chains = lists = others = 0; last = ""; delete missing[table] }
/^# the other chains/ { others = 1 }
/^:/ { name = substr($1, 2) }
/^:/ && !others { led_to[table, name] = 1 }
/^:/ && others { print_chains(name); if ((table, name) in rules) next }
/^-/ && others && $2 != last { print_chains(""); last = $2; print_rules(last) }
/^-/ && others && (table, $2) in rules { next }
/^COMMIT/ { print_chains(""); print_rules("") }
{ print }
END {
    for (table in missing) failed = 1
    exit failed
}
'

merged() {
    if changes_are_all; then
        "$1" -V | grep -q nf_tables || return 1
        extracted_but_changes "$1" | awk -v tool="$1" -v has_jumps=1 "$merge" "$changes" -
        return
    fi
    [ -e "$directory/$1.rules" ] || ! grep -q "^# $1$" "$changes" || return 1
    [ ! -e "$directory/$1.rules" ] || awk -v tool="$1" "$merge" "$changes" "$directory/$1.rules"
}

# Usage: keep FILE TEXT
keep() {
    file=$directory/$1
    kept=$2
    [ -z "$kept" ] || echo kept
    [ "$kept" = "$(cat "$file" 2> /dev/null)" ] && return
    echo changed
    [ "$action" = save ] || return 0
    if [ -n "$kept" ]; then
        mkdir -p "$directory"
        echo "$kept" > "$file.new"
        mv "$file.new" "$file"
    else
        rm -f "$file"
        rmdir "$directory" 2> /dev/null || true
    fi
}

# Usage: stamped STATE
# What is kept, saved in that state.
stamped() {
    echo "$1, $timeouts"
    for file in sets iptables.rules ip6tables.rules ipvs timeouts addresses; do
        [ ! -e "$directory/$file" ] || echo "$file $(cksum < "$directory/$file")"
    done
}

rules() {
    if [ -n "$merging" ] && both=$(merged "$1"); then echo "$both"; else extracted "$1"; fi
}

keep_all() {
    merging=
    if only_changes_are_new; then merging=yes; fi
    [ "$action" = compare ] || rm -f "$stamp"
    keep sets "$(sets)"
    for family in iptables ip6tables; do keep "$family.rules" "$(rules "$family")"; done
    keep ipvs "$(virtual_services)"
    keep timeouts "$(ipvs_timeouts)"
    keep addresses "$(addresses)"
    [ "$action" = compare ] || [ -z "$state" ] || [ ! -d "$directory" ] || stamped "$state" > "$stamp"
    [ "$action" = compare ] || [ -z "$state" ] || rm -f "$changes"
}

# iptables-nft searches a list of all chains named so far for each line, unless a command before was about all chains, as -S
# is: a minute for 10,000 services, or two seconds. In a new table -S has to come behind what is for built-in chains.
many_chains() {
    [ "$(grep -c '^:' "$directory/$1.rules")" -gt 1000 ] && "$1" -V | grep -q nf_tables && echo -S
}

# Jumps that are there already go in the same transaction, so that there is none twice.
restore_rules() {
    file=$directory/$1.rules
    [ -e "$file" ] || return 0
    { echo "# jumps that are there"; deletions "$1"; } | awk -v all="$(many_chains "$1")" '
        NR == FNR { if (/^\*/) table = $1; else if (/^-D/) gone[table] = gone[table] $0 "\n"; next }
        all && /^# the other chains/ { print all }
        { print }
        /^\*/ { printf "%s", gone[$1] }
    ' - "$file" | "$1-restore" --noflush --wait > /dev/null
}

# What is there already is edited rather than added.
restore_virtual_services() {
    [ ! -e "$directory/timeouts" ] || xargs ipvsadm --set < "$directory/timeouts"
    [ -e "$directory/ipvs" ] || return 0
    { echo "# what is there"; ipvsadm --save --numeric; } | awk '
        function key() { return $1 == "-A" ? $2 " " $3 : $2 " " $3 " " $5 }
        NR == FNR { there[key()] = 1; next }
        { if (key() in there) $1 = $1 == "-A" ? "-E" : "-e"; print }
    ' - "$directory/ipvs" | ipvsadm --restore
}

# As _kernel/dummy.py of the collection does: no address of its own, and none of IPv6 is the source of other connections.
restore_addresses() {
    [ -e "$directory/addresses" ] || return 0
    if [ ! -e "/sys/class/net/$device" ]; then
        ip link add "$device" type dummy
        [ ! -d /proc/sys/net/ipv6 ] || ip link set "$device" addrgenmode none
    fi
    ip link set "$device" up
    awk -v device="$device" '
        /:/ { print "address replace " $1 " dev " device " nodad noprefixroute preferred_lft 0 valid_lft forever"; next }
        { print "address replace " $1 " dev " device }
    ' "$directory/addresses" | ip -batch -
}

# systemd calls firewalld started when it has its name on the bus, and then it flushes.
wait_for_firewalld() {
    [ -d /run/systemd/system ] && command -v firewall-cmd > /dev/null && systemctl is-active --quiet firewalld || return 0
    timeout 30 sh -c 'until firewall-cmd --quiet --state; do sleep 0.2; done' || echo "firewalld has not finished: not waiting any longer"
}

restore() {
    # Sets come before the rules that use them, addresses after what answers at them.
    [ ! -e "$directory/sets" ] || ipset -exist restore < "$directory/sets"
    for family in iptables ip6tables; do restore_rules "$family"; done
    restore_virtual_services
    restore_addresses
}

# Whether a table has none of the jumps that are kept: who flushes removes them all.
flushed() {
    file=$directory/$1.rules
    [ -e "$file" ] || return 1
    jumps=$(awk '/^\*/ { table = substr($1, 2) } /^-[AI]/ && $2 !~ "^'"$prefix"'-" { print table, $2 }' "$file" | sort -u)
    for table in $(echo "$jumps" | cut -d ' ' -f 1 | sort -u); do
        found=
        for chain in $(echo "$jumps" | sed -n "s/^$table //p"); do
            "$1" --wait -t "$table" -S "$chain" 2> /dev/null | grep -q -- "-[jg] $prefix-" && found=yes
        done
        [ -n "$found" ] || return 0
    done
    return 1
}

without_virtual_services() {
    [ -e "$directory/ipvs" ] && ! ipvsadm --save --numeric 2> /dev/null | grep -qxF -e "$(grep -m 1 '^-A' "$directory/ipvs")"
}

without_device() {
    [ -e "$directory/addresses" ] && [ ! -e "/sys/class/net/$device" ]
}

case $action in
    save | compare)
        if [ -d /run/systemd/system ]; then
            echo systemd
            for unit in layer4-service-proxy.service layer4-service-proxy-watch.timer; do
                ! systemctl is-active --quiet "$unit" || echo "active $unit"
            done
            for file in $files; do
                if [ -L "$file" ]; then
                    echo "link $(readlink "$file") $file"
                elif [ -e "$file" ]; then
                    echo "file $(stat -c %a "$file") $(sha1sum < "$file" | cut -d ' ' -f 1) $file"
                fi
            done
        fi
        if [ -n "$state" ] && [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(stamped "$state")" ]; then echo kept; else keep_all; fi
        [ "$action" = compare ] || rm -f "$run"
        ;;
    restore)
        wait_for_firewalld
        restore
        ;;
    watch)
        [ -z "$(find "$run" -mmin -10 2> /dev/null)" ] || exit 0
        if flushed iptables || flushed ip6tables || without_virtual_services || without_device; then
            echo "what was kept in $directory was gone: restoring it"
            restore
        fi
        ;;
esac
