# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay of this network namespace: read and changed over netlink. Everything that can fail raises OverlayError."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from .._objects.overlay import (
    DEVICE,
    PROTOCOL,
    Forwarding,
    InnerAddress,
    Item,
    Neighbour,
    OtherTunnel,
    ReversePath,
    Route,
    Tunnel,
    is_on_device,
    text,
)
from . import overlay_messages as messages
from . import sysctl
from .netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, NetlinkSocket
from .overlay_messages import LinkInfo

_NETLINK_ROUTE = 0
_RP_FILTER = f"net/ipv4/conf/{DEVICE}/rp_filter"
_ERRORS = {
    errno.EPERM: "not permitted: CAP_NET_ADMIN is needed in this network namespace",
    errno.EOPNOTSUPP: "the kernel has no vxlan devices (module vxlan: modprobe vxlan)",
}
_GONE = (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV)


class OverlayError(Exception):
    """The kernel refused; the text is one line. code: errno."""

    def __init__(self, doing: str, code: int) -> None:
        super().__init__(f"{doing}: {_ERRORS.get(code) or os.strerror(code)}")
        self.code = code


class Overlay:
    """A context manager."""

    def __enter__(self) -> Overlay:
        try:
            self._netlink = NetlinkSocket(_NETLINK_ROUTE)
        except OSError as error:
            raise OverlayError("reaching rtnetlink", error.errno or 0) from error
        self._netlink.filter_in_kernel()
        return self

    def __exit__(self, *dummy: object) -> None:
        self._netlink.close()

    # reading

    def device(self) -> LinkInfo | None:
        """Return the link of our device's name, whatever it is."""
        return self._link(DEVICE)

    def held(self) -> list[Item]:
        """Return all that is ours."""
        link = self.device()
        found: list[Item] = [one for one in self.routes(PROTOCOL) if one.protocol == PROTOCOL]
        return [*found, *self._on_device(link)] if link and link.tunnel else found

    def routes(self, protocol: int = 0) -> list[Route]:
        """Return the routes of table main; with a protocol at least those that have it."""
        names = {link.ifindex: link.name for link in self.links()}
        bodies = [
            body
            for family in messages.FAMILIES.values()
            for body in self._dump("reading routes", messages.GET_ROUTE, messages.all_routes(family, protocol))
        ]
        return [route for body in bodies for route in [messages.read_route(body, names)] if route]

    def links(self) -> list[LinkInfo]:
        """Return all links."""
        return [
            messages.read_link(body)
            for body in self._dump("reading links", messages.GET_LINK, messages.link_by_index(0))
        ]

    def other_tunnels(self) -> list[OtherTunnel]:
        """Return the VXLAN devices of others."""
        return [
            OtherTunnel(link.name, link.tunnel.id, link.tunnel.port)
            for link in self.links()
            if link.tunnel and link.name != DEVICE
        ]

    def addresses(self) -> list[tuple[LinkInfo, str]]:
        """Return the addresses of all links but our device, with their links."""
        links = {link.ifindex: link for link in self.links()}
        return [
            (links[index], address.network.partition("/")[0])
            for index, address in self._addresses()
            if index in links and links[index].name != DEVICE
        ]

    def _on_device(self, link: LinkInfo) -> Iterator[Item]:
        if link.tunnel:
            yield link.tunnel
        yield ReversePath(sysctl.read(_RP_FILTER) or 0)
        yield from (address for index, address in self._addresses() if index == link.ifindex)
        reading, kind = "reading neighbours", messages.GET_NEIGHBOUR
        for body in self._dump(reading, kind, messages.all_neighbours(messages.AF_BRIDGE)):
            entry = messages.read_forwarding(body, link.ifindex)
            if entry:
                yield entry
        for family in messages.FAMILIES.values():
            for body in self._dump(reading, kind, messages.all_neighbours(family)):
                neighbour = messages.read_neighbour(body, link.ifindex)
                if neighbour:
                    yield neighbour

    def _addresses(self) -> Iterator[tuple[int, InnerAddress]]:
        for body in self._dump("reading addresses", messages.GET_ADDRESS, messages.ALL_ADDRESSES):
            found = messages.read_address(body)
            if found:
                yield found

    def _link(self, name: str) -> LinkInfo | None:
        try:
            (message,) = self._netlink.request(messages.GET_LINK, 0, messages.link_by_name(name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise OverlayError(f"reading device {name}", error.code) from error
        return messages.read_link(message)

    def _dump(self, doing: str, kind: int, payload: bytes) -> list[bytes]:
        try:
            return self._netlink.dump(kind, payload)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # no such table yet, no IPv6
                return []
            raise OverlayError(doing, error.code) from error

    # changing

    def change(self, old: Item | None, new: Item | None) -> None:
        """Make an item, replace one by another with the same key, or remove one."""
        if new is None:
            if old is not None:
                self._remove(old)
        elif isinstance(new, Tunnel):
            self._make_tunnel(new, is_there=old is not None)
        elif isinstance(new, ReversePath):
            sysctl.write(_RP_FILTER, new.mode)
        else:
            flags = NLM_F_CREATE | (NLM_F_REPLACE if old is not None else NLM_F_EXCL)
            self._tell(text(new), _KINDS[type(new)][0], flags, self._payload(new))

    def _make_tunnel(self, tunnel: Tunnel, is_there: bool) -> None:
        doing = text(tunnel)
        if not is_there:
            self._tell(doing, messages.NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, messages.new_tunnel(tunnel))
        index = self._index(DEVICE)
        self._tell(doing, messages.NEW_LINK, 0, messages.no_link_local_address(index), errno.EAFNOSUPPORT)
        self._tell(doing, messages.NEW_LINK, 0, messages.edited_tunnel(index, tunnel))

    def _remove(self, item: Item) -> None:
        """One that is gone already is no error."""
        if isinstance(item, ReversePath):  # goes with the device
            return
        try:
            payload = messages.route_to_delete(item) if isinstance(item, Route) else self._payload(item)
            self._tell(f"removing {text(item)}", _KINDS[type(item)][1], 0, payload)
        except OverlayError as error:
            if error.code not in _GONE:
                raise

    def _payload(self, item: Item) -> bytes:
        """What names and describes an item."""
        index = self._index(DEVICE if is_on_device(item) or not isinstance(item, Route) else item.device)
        if isinstance(item, InnerAddress):
            return messages.address_message(item, index)
        if isinstance(item, Forwarding):
            return messages.forwarding_message(item, index)
        if isinstance(item, Neighbour):
            return messages.neighbour_message(item, index)
        if isinstance(item, Route):
            return messages.route_message(item, index)
        return messages.link_by_index(index)

    def _index(self, name: str) -> int:
        link = self._link(name)
        if link is None:
            raise OverlayError(f"device {name}", errno.ENODEV)
        return link.ifindex

    def _tell(self, doing: str, kind: int, flags: int, payload: bytes, expected: int = 0) -> None:
        try:
            self._netlink.execute(kind, flags, payload)
        except NetlinkError as error:
            if error.code != expected:
                raise OverlayError(doing, error.code) from error


_KINDS = {
    Tunnel: (messages.NEW_LINK, messages.DELETE_LINK),
    InnerAddress: (messages.NEW_ADDRESS, messages.DELETE_ADDRESS),
    Forwarding: (messages.NEW_NEIGHBOUR, messages.DELETE_NEIGHBOUR),
    Neighbour: (messages.NEW_NEIGHBOUR, messages.DELETE_NEIGHBOUR),
    Route: (messages.NEW_ROUTE, messages.DELETE_ROUTE),
}
"""The messages that make and remove each kind."""
