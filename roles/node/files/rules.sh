#!/bin/sh
# Keeps the iptables chains that carry our prefix, the jumps to them from built-in chains and the ipsets of session affinity
# for the next boot.
# Usage: rules.sh save|compare|restore PREFIX DIRECTORY [GONE]
#   save     writes them to DIRECTORY, or removes what is there when there are none
#   compare  does as save does, but writes nothing, and as if the chains named in GONE were gone: BRIDGE and BACKEND, with
#            SERVICES for all others
#   restore  puts them back as they were, in one transaction for each address family
# save and compare say "changed" if what was kept differs, "kept" if there is anything to keep, and "systemd" where
# systemd runs.
set -eu
action=$1 prefix=$2 directory=$3 gone=${4-}
tables="filter mangle nat raw"

# With -v wanted=kept the chains and jumps as iptables-restore --noflush takes them; jumps stand at the same end of the
# built-in chain as they do now. With -v wanted=deletions what takes the jumps away again.
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
        for (i = 1; i <= chains; i++) print chain_line[i]
        for (i = 1; i <= rules; i++) print rule[i]
        for (i = 1; i <= jumps; i++) print jump[i]
        print "COMMIT"
    }
    split("", built_in); split("", leading); split("", others); split("", user)
    chains = rules = jumps = 0
}
/^\*/ { end_table(); table = $1 }
/^:/ {
    name = substr($1, 2)
    if ($2 != "-") built_in[name] = 1
    else user[name] = 1
    if (ours(name) && wanted == "kept") chain_line[++chains] = ":" name " - [0:0]"
}
/^-A / {
    chain = $2
    if (ours(chain)) {
        if (wanted == "kept") rule[++rules] = $0
    } else if (chain in built_in) {
        to = target($0)
        rest = substr($0, length(chain) + 5)
        if (ours(to) && wanted == "deletions") jump[++jumps] = "-D " chain " " rest
        else if (ours(to) && !(chain in others)) jump[++jumps] = "-I " chain " " ++leading[chain] " " rest
        else if (ours(to)) jump[++jumps] = "-A " chain " " rest
        else if (!(to in user)) others[chain] = 1
    }
}
END { end_table() }
'

# Only the tables that are in use: to ask the legacy iptables for another would load it.
held() {
    command -v "$1-save" > /dev/null || return 0
    if "$1" -V | grep -q legacy; then
        used=$(cat "/proc/net/${1%tables}_tables_names" 2> /dev/null || true)
    else
        used=$tables
    fi
    for table in $tables; do
        case " $(echo "$used" | tr '\n' ' ') " in
            *" $table "*) "$1-save" -t "$table" ;;
        esac
    done
}

extracted() {
    held "$1" | awk -v prefix="$prefix" -v gone="$gone" -v wanted="$2" "$extract"
}

# The ipsets in which backends remember their clients, empty, without what the kernel chooses itself. They go with the services.
sets() {
    case " $gone " in *" SERVICES "*) return 0 ;; esac
    ! command -v ipset > /dev/null || ipset save 2> /dev/null |
        sed -n "/^create $prefix-AFF-/{s/hashsize [0-9]*/hashsize 64/; s/ bucketsize [0-9]*//; s/ initval [0-9a-fx]*//; p}"
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

# Jumps that are there already go in the same transaction, so that there is none twice.
restore() {
    file=$directory/$1.rules
    [ -e "$file" ] || return 0
    { echo "# jumps that are there"; extracted "$1" deletions; } | awk '
        NR == FNR { if (/^\*/) table = $1; else if (/^-D/) gone[table] = gone[table] $0 "\n"; next }
        { print }
        /^\*/ { printf "%s", gone[$1] }
    ' - "$file" | "$1-restore" --noflush --wait
}

# Sets come before the rules that use them.
case $action in
    restore) [ ! -e "$directory/sets" ] || ipset -exist restore < "$directory/sets" ;;
    *)
        [ ! -d /run/systemd/system ] || echo systemd
        keep sets "$(sets)"
        ;;
esac
for family in iptables ip6tables; do
    case $action in
        save | compare) keep "$family.rules" "$(extracted "$family" kept)" ;;
        restore) restore "$family" ;;
    esac
done
