# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's IPVS of this network namespace, over netlink. Everything that can fail raises IpvsError.

Needs neither ipvsadm(8) nor pyroute2.
"""

from __future__ import annotations

import errno
import gc
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .._model.addresses import endpoint as endpoint_text
from .._objects.conntrack import Endpoint
from .._objects.ipvs import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Destination,
    HeldService,
    IpvsChange,
    IpvsRefusedError,
    ServiceKey,
    SetDestination,
    SetService,
    Timeouts,
    VirtualService,
    service_name,
)
from . import ipvs_messages as wire
from .ipvs_fingerprint import fingerprint, stable_service, total
from .ipvs_users import users as users_of
from .netlink import NetlinkError, NetlinkSocket, attribute, attributes, messages

_NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
"""Of the family that knows the numbers of the others (``linux/genetlink.h``)."""
_BLOCK = 64
_NOT_PERMITTED = "not permitted: CAP_NET_ADMIN is needed in the user namespace that the host began with"
_MISSING = (
    "the kernel has no IPVS, or its module ip_vs is not loaded: load it with modprobe ip_vs; "
    "where there is no such module, a kernel with CONFIG_IP_VS is needed"
)

_DOING = {
    AddService: "adding it",
    SetService: "changing it",
    DeleteService: "deleting it",
    AddDestination: "adding destination %s",
    SetDestination: "changing destination %s",
    DeleteDestination: "deleting destination %s",
}
_SERVICE_ERRORS = {
    errno.EEXIST: "it exists already",
    errno.ESRCH: "there is no such virtual service",
    errno.EAFNOSUPPORT: "the kernel's IPVS has no IPv6 (CONFIG_IP_VS_IPV6)",
    errno.EPROTONOSUPPORT: "the kernel's IPVS does not handle this protocol",
}
_DESTINATION_ERRORS = {
    errno.EEXIST: "it exists already",
    errno.ENOENT: "there is no such destination",
    errno.ESRCH: "there is no such virtual service",
    errno.ERANGE: "lower_threshold is above upper_threshold, or weight is negative",
    errno.EAFNOSUPPORT: "the kernel's IPVS has no IPv6 (CONFIG_IP_VS_IPV6)",
    errno.EINVAL: "the kernel takes no such destination: its address must be a host's, its family the virtual service's unless it is "
    "tunnelled; and interface lo must have been up in this network namespace",
}


_CONNECTIONS = Path("/proc/net/ip_vs_conn")
_OVER = ("TIME_WAIT", "CLOSE", "NONE")


class IpvsError(IpvsRefusedError):
    """The kernel refused; the text is one line that names the virtual service, the destination and the reason."""


class NoIpvsError(Exception):
    """This host's kernel has no IPVS; the text is one line."""


class Ipvs:
    """A context manager; raises NoIpvsError where there is none, and IpvsError where it does not answer, for want of a right or
    otherwise. To ask makes the kernel load the module where it can.
    """

    def __init__(self) -> None:
        try:
            self._netlink = NetlinkSocket(_NETLINK_GENERIC)
        except OSError as error:
            raise _unreachable(error.errno or errno.EIO) from error
        try:
            self._family = self._find_family()
            self.timeouts()
        except NetlinkError as error:
            self._netlink.close()
            raise _unreachable(error.code) from error
        except IpvsError:
            self._netlink.close()
            raise

    def __enter__(self) -> Ipvs:
        return self

    def __exit__(self, *_error: object) -> None:
        self._netlink.close()

    def services(self) -> dict[ServiceKey, HeldService]:
        """Everything that IPVS holds."""
        return self.snapshot()[1]

    def service(self, key: ServiceKey) -> HeldService | None:
        """One virtual service, None where there is none."""
        for body in self._body(key):
            return self._with_destinations(wire.decode_service(body))
        return None

    def fingerprint(self, keys: Iterable[ServiceKey] | None = None) -> int:
        """Return a number for all that IPVS holds, or for these virtual services: it is the sum of theirs (`ipvs_fingerprint`)."""
        found = list(map(stable_service, self._bodies(keys)))
        return total([fingerprint(one, answers) for one, answers in zip(found, self._answers(found))])

    def snapshot(self, keys: Iterable[ServiceKey] | None = None) -> tuple[int, dict[ServiceKey, HeldService]]:
        """Return the fingerprint of all virtual services, or of these, and what they are: of one reading, so that both agree."""
        numbers, held = [], {}
        with _no_collection():
            bodies = self._bodies(keys)
            found = list(map(stable_service, bodies))
            for body, stable, answers in zip(bodies, found, self._answers(found)):
                numbers.append(fingerprint(stable, answers))
                one = wire.decode_service(body)
                parts = [text[start:end] for text in answers for start, end in messages(text)]
                decoded = [wire.decode_destination(each, one.key.family)[0] for each in parts]
                held[one.key] = HeldService(one, {(each.address, each.port): each for each in decoded})
        return total(numbers), held

    def users(
        self, destinations: Collection[tuple[str, str, int]]
    ) -> list[tuple[tuple[str, str, int], ServiceKey]] | None:
        """Return which of these protocols, addresses and ports are destinations of which virtual services; None where that is not told."""
        return users_of(destinations) if destinations else []

    def connections(self, keys: Iterable[ServiceKey]) -> dict[ServiceKey, dict[Endpoint, tuple[int, int]]]:
        """Active and inactive connections of each destination. A virtual service that is not there has none."""
        return {
            key: {(one.address, one.port): (active, inactive) for one, active, inactive in self._destinations(key)}
            for key in keys
        }

    def open_connections(self) -> int:
        """Return how many TCP connections of all virtual services are being made, open or being closed. Raises IpvsError."""
        try:
            lines = _CONNECTIONS.read_text().splitlines()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise IpvsError(f"IPVS: {_CONNECTIONS} cannot be read: {error.strerror}") from error
        found = (line.split(maxsplit=8) for line in lines if line.startswith("TCP "))
        return sum(fields[7] not in _OVER for fields in found)

    def timeouts(self) -> Timeouts:
        try:
            (body,) = self._netlink.request(self._family, 0, wire.message(wire.GET_CONFIG))
        except NetlinkError as error:
            raise _unreadable(error.code) from error
        return wire.decode_timeouts(body)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """One of 0 stays as it is."""
        try:
            self._netlink.execute(self._family, 0, wire.encode_timeouts(timeouts))
        except NetlinkError as error:
            shown = " ".join(map(str, timeouts))
            raise IpvsError(f"IPVS: setting timeouts to {shown}: {_reason(error.code)}") from error

    def apply(self, changes: Sequence[IpvsChange]) -> None:
        """Make the changes in their order. Raises IpvsError for the first that is refused; those some places behind it may
        have been made nevertheless: ``made`` tells.
        """
        for start in range(0, len(changes), _BLOCK):
            block = changes[start : start + _BLOCK]
            refused = self._netlink.execute_block(self._family, 0, [wire.encode_change(change) for change in block])
            if refused:
                first = min(refused)
                error = _refusal(block[first], refused[first])
                error.made = [*changes[:start], *(one for at, one in enumerate(block) if at not in refused)]
                raise error

    def _bodies(self, keys: Iterable[ServiceKey] | None) -> list[bytes]:
        """The messages of all virtual services, or of these."""
        if keys is None:
            return self._dump(wire.message(wire.GET_SERVICE))
        return [body for key in keys for body in self._body(key)]

    def _answers(self, services: Iterable[bytes]) -> Iterator[list[bytes]]:
        """The datagrams with the destinations of each of these. services: what `stable_service` gives."""
        try:
            yield from self._netlink.each_dump(self._family, (wire.of_service(wire.GET_DEST, one) for one in services))
        except NetlinkError as error:
            raise _unreadable(error.code) from error

    def _body(self, key: ServiceKey) -> list[bytes]:
        """The message of one virtual service, none where there is none."""
        try:
            return list(self._netlink.request(self._family, 0, wire.request(wire.GET_SERVICE, key)))
        except NetlinkError as error:
            if error.code == errno.ESRCH:
                return []
            raise _unreadable(error.code) from error

    def _with_destinations(self, service: VirtualService) -> HeldService:
        found = self._destinations(service.key)
        return HeldService(service, {(one.address, one.port): one for one, dummy, dummy in found})

    def _destinations(self, key: ServiceKey) -> Iterator[tuple[Destination, int, int]]:
        for body in self._dump(wire.request(wire.GET_DEST, key)):
            yield wire.decode_destination(body, key.family)

    def _dump(self, message: bytes) -> list[bytes]:
        try:
            return self._netlink.dump(self._family, message)
        except NetlinkError as error:
            raise _unreadable(error.code) from error

    def _find_family(self) -> int:
        query = struct.pack("=BBxx", _GET_FAMILY, 1) + attribute(_FAMILY_NAME, b"IPVS\0")
        (body,) = self._netlink.request(_CONTROLLER, 0, query)
        return int(struct.unpack("=H", attributes(body[4:])[_FAMILY_ID])[0])


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection, which looks for circles among tens of thousands of tuples again and again: a quarter of
    the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _unreachable(code: int) -> NoIpvsError | IpvsError:
    if code in (errno.ENOENT, errno.EPROTONOSUPPORT):
        return NoIpvsError(f"IPVS cannot be reached over netlink: {_MISSING}")
    return _unreadable(code)


def _unreadable(code: int) -> IpvsError:
    return IpvsError(f"IPVS cannot be read over netlink: {_reason(code)}")


def _reason(code: int) -> str:
    return _NOT_PERMITTED if code == errno.EPERM else os.strerror(code)


def _refusal(change: IpvsChange, code: int) -> IpvsError:
    """What the kernel refused, in words."""
    doing = _DOING[type(change)]
    if isinstance(change, (AddService, SetService)):
        key, errors = change.service.key, {**_SERVICE_ERRORS, errno.ENOENT: _missing_modules(change)}
    elif isinstance(change, DeleteService):
        key, errors = change.key, _SERVICE_ERRORS
    elif isinstance(change, DeleteDestination):
        key, errors = change.key, _DESTINATION_ERRORS
        doing %= endpoint_text(*change.endpoint)
    else:
        key, errors = change.key, _DESTINATION_ERRORS
        doing %= endpoint_text(change.destination.address, change.destination.port)
    return IpvsError(f"virtual service {service_name(key)}: {doing}: {errors.get(code) or _reason(code)}")


def _missing_modules(change: AddService | SetService) -> str:
    scheduler, engine = change.service.scheduler, change.service.persistence_engine
    text = f"the kernel has no scheduler {scheduler}: load module ip_vs_{scheduler}"
    return text + (f", or has no persistence engine {engine} (ip_vs_pe_{engine})" if engine else "")
