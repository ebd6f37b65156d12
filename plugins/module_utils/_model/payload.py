# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Long lists of services as one opaque text on their way from the controller to a node. Pure.

Ansible looks into every value of a task's arguments several times, and sends them back in the result. A text is one value.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

from .service import InvalidServices

_FASTEST = 1
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_START, _BETWEEN, _END = "[\n", ",\n", "\n]"


class Payload(NamedTuple):
    """Services as one text."""

    digest: str
    """Of what the body holds."""
    body: str


def to_text(services: Sequence[Any]) -> str:
    """Return services as JSON, a line for each, the same whatever the order of their keys. Raises TypeError for what JSON does not know."""
    return _START + _BETWEEN.join(map(service_text, services)) + _END


def service_text(service: Any) -> str:
    """Return the line of one service in `to_text`. Raises TypeError for what JSON does not know."""
    return _ENCODER.encode(service)


class PackedServices(Sequence[Any]):
    """The services of a payload, unpacked when one is asked for first. Raises InvalidServices then, for what `pack` did not make."""

    def __init__(self, payload: Payload) -> None:
        self.digest = payload.digest
        self._body = payload.body

    @cached_property
    def _text(self) -> str:
        try:
            return _decompressed(self._body)
        except ValueError as error:
            raise InvalidServices([f"payload: {error}"]) from error

    @cached_property
    def _services(self) -> list[Any]:
        try:
            return _listed(self._text)
        except ValueError as error:
            raise InvalidServices([f"payload: {error}"]) from error

    @cached_property
    def texts(self) -> list[str]:
        """The line of each in `to_text`. Those of a body in another form are made."""
        text = self._text
        if text.startswith(_START) and text.endswith(_END):
            return text[len(_START) : -len(_END)].split(_BETWEEN)
        return list(map(service_text, self._services))

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._services[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)

    def __bool__(self) -> bool:
        """Whether there is any, without taking them apart."""
        return len(self._text) > len(_START + _END) if self._text.startswith(_START) else bool(self._services)


def texts_of(services: Sequence[Any]) -> list[str]:
    """Return the line of each service in `to_text`. Raises TypeError for what JSON does not know, and InvalidServices."""
    return services.texts if isinstance(services, PackedServices) else list(map(service_text, services))


def digest_of(services: Sequence[Any]) -> str:
    """Return the digest that `pack` gives these services. Raises TypeError for what JSON does not know."""
    return services.digest if isinstance(services, PackedServices) else _digest(to_text(services).encode())


def packed(text: str) -> Payload:
    """Return the payload of what `to_text` gives."""
    plain = text.encode()
    return Payload(_digest(plain), base64.b64encode(zlib.compress(plain, _FASTEST)).decode())


def pack(services: Sequence[Any]) -> Payload:
    """Return the payload of services. Raises TypeError for what JSON does not know."""
    return packed(to_text(services))


def unpack(body: str) -> list[Any]:
    """Return the services of a body. Raises ValueError for what `pack` did not make."""
    return _listed(_decompressed(body))


def _decompressed(body: str) -> str:
    try:
        return zlib.decompress(base64.b64decode(body)).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _listed(text: str) -> list[Any]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("no list")
    return found


def _digest(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()
