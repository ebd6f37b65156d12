# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dummy device that holds addresses of hosts, over netlink (``rtnetlink.h``, ``if_addr.h``).

Everything that can fail raises DeviceError. Addresses are those of global scope.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from .._objects.node_facts import DeviceState
from .netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkError, NetlinkSocket, attribute, attributes, nested
from .netlink_layout import Reader

_NETLINK_ROUTE = 0
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_LINK = struct.Struct("=BxHiII")
"""Of a link message: family, type, index, flags, and which flags are meant."""
_ADDRESS = struct.Struct("=BBBBi")
"""Of an address message: family, prefix length, flags, scope, index of the interface."""
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_AF_SPEC = 3, 18, 26
_INFO_KIND = 1
_INET6_ADDR_GEN_MODE, _GENERATE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_READER = Reader({_IFA_LOCAL: "", _IFA_ADDRESS: ""})
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_SCOPE_GLOBAL = 0
_FOREVER = 0xFFFFFFFF
_BLOCK = 64
_UP = 1
_KIND = "dummy"
_FAMILIES = {socket.AF_INET: 32, socket.AF_INET6: 128}
_ERRORS = {
    errno.EPERM: "not permitted: CAP_NET_ADMIN is needed in this network namespace",
    errno.EOPNOTSUPP: "the kernel has no dummy devices (module dummy: modprobe dummy)",
}


class DeviceError(Exception):
    """The kernel refused; the text is one line that names the device."""

    def __init__(self, device: str, doing: str, code: int) -> None:
        super().__init__(f"device {device}: {doing}: {_ERRORS.get(code) or os.strerror(code)}")
        self.code = code


class Device:
    """The device of this name in this network namespace. A context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._netlink = NetlinkSocket(_NETLINK_ROUTE)
        except OSError as error:
            raise DeviceError(self.name, "reaching it over netlink", error.errno or 0) from error

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *dummy: object) -> None:
        self._netlink.close()

    def state(self) -> DeviceState | None:
        """None where there is no device of this name."""
        message = self._link()
        if message is None:
            return None
        _family, _type, index, flags, _change = _LINK.unpack_from(message)
        info = attributes(attributes(message[_LINK.size :]).get(_IFLA_LINKINFO, b""))
        kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
        return DeviceState(kind, bool(flags & _UP), frozenset(self._addresses(index)))

    def create(self) -> None:
        """The device, up and without any address."""
        kind = nested(_IFLA_LINKINFO, attribute(_INFO_KIND, _KIND.encode() + b"\0"))
        self._tell("creating it", _NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, self._by_name() + kind)
        self._make_no_address()
        self.set_up(True)

    def _make_no_address(self) -> None:
        """Keep it from getting a link-local address; where there is no IPv6 it gets none anyway."""
        mode = attribute(_INET6_ADDR_GEN_MODE, struct.pack("=B", _GENERATE_NONE))
        payload = _LINK.pack(0, 0, self._existing(), 0, 0) + nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
        self._tell("setting it up", _NEW_LINK, 0, payload, errno.EAFNOSUPPORT)

    def set_up(self, up: bool) -> None:
        """Administratively up, or down."""
        payload = _LINK.pack(0, 0, self._existing(), _UP if up else 0, _UP)
        self._tell("setting it up" if up else "setting it down", _NEW_LINK, 0, payload)

    def delete(self) -> None:
        self._tell("deleting it", _DELETE_LINK, 0, _LINK.pack(0, 0, self._existing(), 0, 0))

    def add(self, addresses: Iterable[str]) -> None:
        """In order; one that is there already is no error. Of those around one that is refused, some may be there."""
        self._tell_all("adding address %s", _NEW_ADDRESS, NLM_F_CREATE | NLM_F_EXCL, addresses, errno.EEXIST)

    def remove(self, addresses: Iterable[str]) -> None:
        """One that is gone already is no error."""
        self._tell_all("removing address %s", _DELETE_ADDRESS, 0, addresses, errno.EADDRNOTAVAIL)

    def _by_name(self) -> bytes:
        return _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, self.name.encode() + b"\0")

    def _link(self) -> bytes | None:
        """What the kernel says of the device. ioctl(2), as if_nametoindex(3) has it, would look for a module of its name."""
        try:
            (message,) = self._netlink.request(_GET_LINK, 0, self._by_name())
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise DeviceError(self.name, "reading it", error.code) from error
        return message

    def _existing(self) -> int:
        message = self._link()
        if message is None:
            raise DeviceError(self.name, "looking it up", errno.ENODEV)
        return int(_LINK.unpack_from(message)[2])

    def _addresses(self, index: int) -> Iterator[str]:
        try:
            messages = self._netlink.dump(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0))
        except NetlinkError as error:
            raise DeviceError(self.name, "reading its addresses", error.code) from error
        for message in messages:
            family, _length, _flags, scope, at = _ADDRESS.unpack_from(message)
            if at == index and scope == _SCOPE_GLOBAL and family in _FAMILIES:
                local, address = _READER.read(message)
                yield socket.inet_ntop(family, local or address)

    def _tell(self, doing: str, kind: int, flags: int, payload: bytes, expected: int = 0) -> None:
        try:
            self._netlink.execute(kind, flags, payload)
        except NetlinkError as error:
            if error.code != expected:
                raise DeviceError(self.name, doing, error.code) from error

    def _tell_all(self, doing: str, kind: int, flags: int, addresses: Iterable[str], expected: int) -> None:
        index, rest = self._existing(), list(addresses)
        while rest:
            block, rest = rest[:_BLOCK], rest[_BLOCK:]
            refused = self._netlink.execute_block(kind, flags, [_address_message(one, index) for one in block])
            for at, code in sorted(refused.items()):
                if code != expected:
                    raise DeviceError(self.name, doing % block[at], code)


def _address_message(address: str, index: int) -> bytes:
    """An address of one host. An IPv6 address is deprecated from the start (RFC 4862, section 5.5.4), so that the node does
    not choose it as the source of other connections.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    message = _ADDRESS.pack(family, _FAMILIES[family], 0, _SCOPE_GLOBAL, index)
    message += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    if family == socket.AF_INET6:
        message += attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, _FOREVER, 0, 0))
        message += attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE))
    return message
