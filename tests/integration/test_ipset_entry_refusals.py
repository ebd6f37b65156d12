# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every wrong input of ipset_entry is refused in one line that says what is allowed, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nat_host import script
from set_host import SetHost

from ansible_collections.layer4.service_proxy.plugins.module_utils._objects.ipset import SET_TYPES
from module_runner import MANAGED_HOST_PYTHON, run_module

ADDRESSES = "must be an IPv4 address, a range 10.0.0.1-10.0.0.9 or a network 10.0.0.0/24"
NETWORKS = "must be an IPv4 network 10.0.0.0/24, an address or a range 10.0.0.1-10.0.0.9"
PORTS = "must be a port from 0 to 65535, or a range 80-90 from its lowest to its highest port"
TYPES = ", ".join(SET_TYPES)


@pytest.fixture(scope="module")
def host() -> Iterator[SetHost]:
    """A host with a set of most types; they are the same after every test."""
    with SetHost() as made:
        made.ipset("create", "ips", "hash:ip", "timeout", "60")
        made.ipset("add", "ips", "10.0.0.1", "timeout", "0")
        made.ipset("create", "nets", "hash:net", "comment")
        made.ipset("create", "pairs", "hash:ip,port", "family", "inet6")
        made.ipset("create", "ports", "bitmap:port", "range", "1-1023")
        made.ipset("create", "lists", "list:set")
        made.ipset("create", "macs", "bitmap:ip", "range", "10.0.0.0/24")
        made.ipset("create", "marked", "hash:ip", "skbinfo", "netmask", "24")
        made.ipset("create", "small", "hash:ip", "maxelem", "2")
        yield made


def entry(set_name: str, written: Any, problem: str, shown: str | None = None) -> tuple[dict[str, Any], str]:
    text = shown if shown is not None else f'"{written}"'
    return {"set": set_name, "entries": [written]}, f'set "{set_name}": entries[0] is {text}: {problem}'


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"set": "no set"},
        'set is "no set": must be 1 to 31 printable ASCII characters without blanks, quotes, commas and backslashes, no dash first',
    ),
    ({"set": "x" * 32, "type": "hash:ip"}, f'set is "{"x" * 32}": must be 1 to 31 printable ASCII'),
    ({"set": "-x", "type": "hash:ip"}, 'set is "-x": must be 1 to 31 printable ASCII'),
    ({"set": "", "type": "hash:ip"}, 'set is "": must be 1 to 31 printable ASCII'),
    ({"set": "new"}, f'set "new" does not exist: give its type to create it, one of {TYPES}'),
    ({"set": "new", "type": "hash:mac"}, "value of type must be one of: hash:ip, hash:net, "),
    (
        {"set": "ips", "type": "hash:net"},
        'set "ips": type is hash:net: must be hash:ip, as the set exists with that type; remove it first to change its type',
    ),
    ({"set": "ips", "type": "hash:net", "state": "absent"}, 'set "ips": type is hash:net: must be hash:ip'),
    (
        {"set": "ips", "family": "ipv6"},
        'set "ips": family is ipv6: must be ipv4, as the set exists with that family; remove it first to change its family',
    ),
    ({"set": "ips", "family": "inet7"}, "value of family must be one of: ipv4, ipv6, inet, inet6, got: inet7"),
    (
        {"set": "ports", "family": "ipv4"},
        'set "ports": family is ipv4: must be left out, as the set exists with type bitmap:port, which has none',
    ),
    ({"set": "macs", "entries": ["10.0.0.1"]}, f'set "macs" has type bitmap:ip: must be one of {TYPES}'),
    (
        {"set": "marked", "entries": ["10.0.0.1"]},
        'set "marked" has skbinfo and netmask, which cannot be kept by this module: remove the set first',
    ),
    (
        {"set": "new", "type": "hash:ip", "timeout": -1},
        'set "new": timeout is -1: must be an integer from 0 to 2147483',
    ),
    (
        {"set": "new", "type": "hash:ip", "timeout": 2147484},
        'set "new": timeout is 2147484: must be an integer from 0 to 2147483',
    ),
    ({"set": "new", "type": "hash:ip", "timeout": "soon"}, "argument 'timeout' is of type"),
    (
        {"set": "new", "type": "hash:ip", "hashsize": 0},
        'set "new": hashsize is 0: must be an integer from 1 to 268435456',
    ),
    (
        {"set": "new", "type": "hash:ip", "maxelem": 4294967296},
        'set "new": maxelem is 4294967296: must be an integer from 1 to 4294967295',
    ),
    (
        {"set": "new", "type": "bitmap:port", "maxelem": 5},
        'set "new": maxelem is 5: must be left out, as type bitmap:port has none',
    ),
    (
        {"set": "new", "type": "list:set", "family": "ipv4"},
        'set "new": family is "ipv4": must be left out, as type list:set has none',
    ),
    ({"set": "ips", "range": "1-9"}, 'set "ips": range is "1-9": must be left out, as type hash:ip has none'),
    (
        {"set": "ports", "range": "9-1"},
        'set "ports": range is "9-1": must be two ports 1024-2047, the lower one first, from 0 to 65535',
    ),
    (
        {"set": "ips", "exclusive": True},
        'set "ips": exclusive is true: must be given together with entries; an empty list empties the set',
    ),
    (
        {"set": "ips", "exclusive": True, "entries": [], "state": "absent"},
        'set "ips": exclusive is true: must be false with state absent',
    ),
    (
        {"set": "small", "entries": ["10.0.0.1-10.0.0.3"]},
        'set "small": maxelem is 2: must be at least 3, as many entries as the set would hold',
    ),
    (
        {"set": "new", "type": "hash:ip", "entries": ["10.0.0.0/16", "10.1.0.0"]},
        'set "new": maxelem is 65536: must be at least 65537',
    ),
    entry("ips", "10.0.0.300", ADDRESSES),
    entry("ips", "example.org", ADDRESSES),
    entry("ips", "10.1", ADDRESSES),
    entry("ips", "2001:db8::1", f"{ADDRESSES}, as the set has family ipv4"),
    entry("ips", "10.0.0.9-10.0.0.1", "must be a range from its lowest to its highest address"),
    entry("ips", "10.0.0.0/33", ADDRESSES),
    entry("ips", "10.0.0.0/8", "must be at most 65536 addresses; larger ranges fit a set of networks"),
    entry("ips", "0.0.0.0", "must be an address other than 0.0.0.0, which the kernel does not store here"),
    entry("ips", "10.0.0.1,tcp:80", "must be ip, as hash:ip holds it"),
    entry("ips", "10.0.0.1 comment x", "must be without comment, or the set needs comment: true"),
    entry("ips", "10.0.0.1 packets 1", "must be without packets, or the set needs counters: true"),
    entry("ips", "10.0.0.1 nomatch", "must be without nomatch, which is for types of set with net"),
    entry(
        "ips",
        "10.0.0.1 skbmark 1",
        "must be an element with options, of timeout N, comment WORDS, packets N, bytes N and nomatch",
    ),
    entry("ips", "10.0.0.1 timeout", "must be an element with options, of timeout N"),
    entry("ips", "10.0.0.1 timeout 1 timeout 2", "must be an element with every option given once"),
    (
        {"set": "ips", "entries": ["10.0.0.1 timeout long"]},
        'set "ips": entries[0]: timeout is "long": must be an integer from 0 to 2147483',
    ),
    (
        {"set": "ips", "entries": [{"entry": "10.0.0.1", "timeout": 9999999}]},
        'set "ips": entries[0]: timeout is 9999999: must be an integer from 0 to 2147483',
    ),
    (
        {"set": "ips", "entries": [{"timeout": 3}]},
        'set "ips": entries[0]: entry is missing: must be an element, one word without options',
    ),
    (
        {"set": "ips", "entries": [{"entry": "10.0.0.1 nomatch"}]},
        'set "ips": entries[0]: entry is "10.0.0.1 nomatch": must be an element, one word without options',
    ),
    (
        {"set": "ips", "entries": [{"entry": "10.0.0.1", "ttl": 3}]},
        'set "ips": entries[0]: "ttl" is not a known key (its value is 3): allowed are entry, timeout, ',
    ),
    (
        {"set": "ips", "entries": ["10.0.0.1", "10.0.0.1 timeout 9"]},
        'set "ips": entries[1] is "10.0.0.1 timeout 9": must be given once, or the same each time',
    ),
    entry(
        "ips", ["10.0.0.1"], "must be a string as ipset add takes it, or a dict with the keys entry, ", '["10.0.0.1"]'
    ),
    entry("ips", True, "must be a string as ipset add takes it", "true"),
    entry("ips", "", "must be an element, and options", '""'),
    entry(
        "nets",
        "0.0.0.0/0",
        "must be a network longer than /0, which the kernel does not store: write its halves 0.0.0.0/1 and 128.0.0.0/1",
    ),
    entry("nets", "10.0.0.0/a", NETWORKS),
    entry("nets", "10.0.0.0/255.0.0.0", NETWORKS),
    entry("nets", "fd00::/8", f"{NETWORKS}, as the set has family ipv4"),
    entry(
        "nets",
        '10.0.0.0/8 comment "a',
        "must be an element, and options of which words with blanks stand in double quotes",
        '"10.0.0.0/8 comment \\"a"',
    ),
    (
        {"set": "nets", "entries": [{"entry": "10.0.0.0/8", "comment": 'a"b'}]},
        'set "nets": entries[0]: comment is "a\\"b": must be a string of at most 255 bytes',
    ),
    (
        {"set": "nets", "entries": [{"entry": "10.0.0.0/8", "comment": "ä" * 128}]},
        "must be a string of at most 255 bytes, printable and without double quotes",
    ),
    (
        {"set": "nets", "entries": [{"entry": "10.0.0.0/8", "comment": "a\nb"}]},
        'set "nets": entries[0]: comment is "a\\nb": must be a string of at most',
    ),
    entry("pairs", "fd00::1", "must be ip,port, as hash:ip,port holds it"),
    entry("pairs", "fd00::1,70000", f'"70000" {PORTS}'),
    entry("pairs", "fd00::1,90-80", f'"90-80" {PORTS}'),
    entry(
        "pairs",
        "fd00::1,tcp:nosuchservice",
        '"tcp:nosuchservice" must be a port from 0 to 65535, a range of ports, or a service that this host knows for tcp',
    ),
    entry(
        "pairs",
        "fd00::1,quic:443",
        '"quic:443" must be a port with one of icmp, tcp, udp, icmpv6, sctp, udplite before it, or another protocol with port 0',
    ),
    entry("pairs", "fd00::1,112:5", '"112:5" must be the port 0 with this protocol, which has no ports'),
    entry("pairs", "fd00::1,icmp:8/0", '"icmp:8/0" must be of a protocol that ipv6 has, which icmp is not'),
    entry(
        "pairs",
        "fd00::1,icmpv6:echo-request",
        '"icmpv6:echo-request" must be icmpv6:TYPE/CODE, both numbers from 0 to 255',
    ),
    entry("pairs", "fd00::/120,1-1000", "must be at most 65536 elements, and it stands for 256000"),
    entry("ports", 1024, "must be inside the set's range 1-1023", "1024"),
    entry("ports", "tcp:0", "must be inside the set's range 1-1023"),
    entry("ports", "icmp:8", "must be a port, or a port with one of tcp, udp, sctp, udplite before it"),
    ({"set": "lists", "entries": ["nope"]}, 'set "lists": member "nope" does not exist: must be the name of a set'),
    (
        {"set": "lists", "entries": ["lists"]},
        'set "lists": member "lists" has type list:set: must be a set of another type',
    ),
    entry("lists", "a,before,b", "must be the name of a set: 1 to 31 printable ASCII"),
    (
        {"set": "ips", "state": "absent", "entries": ["10.0.0.1", "nonsense"]},
        'set "ips": entries[1] is "nonsense": must be an IPv4 address',
    ),
    ({"set": "ips", "entires": []}, "Unsupported parameters for"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:60] for _options, message in REFUSED])
def test_wrong_input_is_refused_in_one_line(host: SetHost, options: dict[str, Any], message: str) -> None:
    before = host.saved()
    result = host.run(**options)
    assert result.get("failed"), result
    assert "\n" not in result["msg"]
    assert message in result["msg"]
    assert host.saved() == before


def test_errors_are_listed_and_thousands_are_not(host: SetHost) -> None:
    lines = host.run(set="ips", entries=["10.0.0.2", "a", "10.0.0.3", "b"])["msg"].splitlines()
    assert [line.split(":")[1] for line in lines] == [' entries[1] is "a"', ' entries[3] is "b"']
    lines = host.run(set="ips", entries=["a"] * 1000)["msg"].splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 990 more"


def test_without_the_right_to_change_sets(host: SetHost, tmp_path: Path) -> None:
    powerless = script(tmp_path, "python", f'exec setpriv --bounding-set -net_admin {MANAGED_HOST_PYTHON} "$@"')
    options = {"set": "ips", "entries": ["10.0.0.7"]}
    result = run_module(host.namespace, "ipset_entry", options, interpreter=str(powerless))
    assert result["msg"] == (
        "ipset cannot be reached over netlink: not permitted: CAP_NET_ADMIN is needed in this network namespace"
    )
