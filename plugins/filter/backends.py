# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: backends
short_description: Make the backends of a service from inventory hosts
version_added: 0.1.0
author:
  - layer4.service_proxy contributors (!UNKNOWN)
description:
  - Returns the list that goes into the C(backends) of a service in C(service_proxy_services), one backend for each host
    in the order of the hosts.
  - What differs from host to host is given as a JMESPath expression. It is evaluated on that host's variables, so an
    expression is most often just the name of a variable.
positional: hostvars, port
options:
  _input:
    description:
      - The name of an inventory group, or a list of host names such as C(groups['web']).
    type: raw
    required: true
  hostvars:
    description:
      - The variable C(hostvars).
    type: dict
    required: true
  port:
    description:
      - Port of the backend, as a number or as a JMESPath expression.
      - Without it the backends have the port of their service.
    type: raw
  address:
    description:
      - JMESPath expression of the backend's IP address.
      - An expression that gives a list makes a backend of each address, for services with both IPv4 and IPv6. What is
        null in the list is left out, an address that comes twice is taken once.
    type: str
    default: ansible_host || inventory_hostname
  weight:
    description:
      - Weight of the backend, as a number or as a JMESPath expression.
      - Where the expression gives null, the weight is left out and the service's default applies.
    type: raw
  ready:
    description:
      - Whether the backend takes new connections, as a boolean or as a JMESPath expression.
      - Where the expression gives null, it is left out and the service's default applies.
    type: raw
  node:
    description:
      - JMESPath expression of the inventory name of the node on which the backend runs.
      - With V(none), and where the expression gives null, it is left out and the backend belongs to no node.
    type: str
    default: inventory_hostname
requirements:
  - jmespath (Python library on the controller)
notes:
  - A constant inside an expression is written as JMESPath does, a number between backticks, a string between single
    quotes. Hence V(web_weight || `1`) and V(zone == 'a').
  - Only the variables that an expression names are templated.
"""

EXAMPLES = r"""
- name: Every host of group web is a backend, at its ansible_host
  ansible.builtin.debug:
    msg: "{{ groups['web'] | layer4.service_proxy.backends(hostvars, port=8080) }}"

- name: By the name of the group, with an address and a weight from each host's variables
  ansible.builtin.debug:
    msg: "{{ 'web' | layer4.service_proxy.backends(hostvars, port=8080, address='web_address',
      weight='web_weight || `1`') }}"

- name: Two address families, hosts under maintenance take no new connections, containers run on a node of another name
  ansible.builtin.debug:
    msg: "{{ groups['web'] | layer4.service_proxy.backends(hostvars, port='web_port',
      address='[web_address, web_address6]', ready='!maintenance', node='hypervisor') }}"
"""

RETURN = r"""
_value:
  description:
    - The backends, in the order of the hosts.
  type: list
  elements: dict
  contains:
    address:
      description: IP address.
      type: str
    port:
      description: Port, left out when O(port) is not given.
      type: int
    weight:
      description: Weight, left out when O(weight) is not given or gives null.
      type: int
    ready:
      description: Whether new connections are taken, left out when O(ready) is not given or gives null.
      type: bool
    node:
      description: Inventory name of the node, left out when O(node) is none or gives null.
      type: str
"""

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.layer4.service_proxy.plugins.module_utils._model.fields import Problem, boolean

try:
    import jmespath
    from jmespath.exceptions import JMESPathError
except ImportError:
    HAS_JMESPATH = False
else:
    HAS_JMESPATH = True

DEFAULT_ADDRESS = "ansible_host || inventory_hostname"
DEFAULT_NODE = "inventory_hostname"


class _UnfitError(Exception):
    """A value that a backend's key cannot have; the message says what is allowed."""


class _HostVariables:
    """One host's variables as JMESPath reads them: by name, templated only when read, and in plain Python types.

    ansible-core tags its strings and templates its containers lazily; JMESPath's functions know neither.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def get(self, name: str) -> Any:
        return _plain(self._variables[name]) if name in self._variables else None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return str(value)


def _reason(error: JMESPathError) -> str:
    """What JMESPath says, without the expression that it repeats below with a marker."""
    return str(error).split("\n", maxsplit=1)[0].rstrip(": ")


def _address(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnfitError("an IP address")
    try:
        return str(ip_address(value))
    except ValueError:
        raise _UnfitError("an IP address") from None


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _UnfitError(f"a number from {low} to {high}")
        return value

    return convert


def _boolean(value: Any) -> bool:
    """Also of Ansible's words for it: what an INI inventory gives is often a string."""
    try:
        return boolean(value)
    except Problem as exc:
        raise _UnfitError(exc.allowed) from None


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _UnfitError("the name of a host")
    return value


_ALTERNATIVES = re.compile(r"\s*[A-Za-z_]\w*(?:\s*\|\|\s*[A-Za-z_]\w*)*\s*", re.ASCII)


def _alternatives(expression: str) -> Callable[[_HostVariables], Any] | None:
    """What JMESPath makes of names with || between them: the first that is something, else the last. None for all else."""
    if not _ALTERNATIVES.fullmatch(expression):
        return None
    names = [name.strip() for name in expression.split("||")]

    def search(variables: _HostVariables) -> Any:
        for name in names[:-1]:
            value = variables.get(name)
            if value or (isinstance(value, (int, float)) and not isinstance(value, bool)):
                return value
        return variables.get(names[-1])

    return search


def _negation(value: Any) -> bool:
    """Of a word for a boolean its opposite; of all else what JMESPath says: whether it is nothing."""
    try:
        return not boolean(value)
    except Problem:
        return not value


class _Field:
    """One key of a backend: a constant, or an expression to evaluate on each host's variables."""

    def __init__(self, key: str, given: Any, convert: Callable[[Any], Any]) -> None:
        self.key = key
        self._given = _plain(given)
        self._convert = convert
        self.is_expression = isinstance(self._given, str) and not self._given.isdigit()
        if self.is_expression:
            negated = self._given.strip().startswith("!") and convert is _boolean
            expression = self._given.strip()[1:] if negated else self._given
            search = _alternatives(expression) or self._compiled(expression)
            self._search = (lambda variables: _negation(search(variables))) if negated else search

    def _compiled(self, expression: str) -> Callable[[_HostVariables], Any]:
        if not HAS_JMESPATH:
            raise AnsibleFilterError(
                f"backends: {self.key}: {self._given!r} is more than names with || between them: it needs the Python library "
                "jmespath on the controller (pip install jmespath)"
            )
        try:
            search: Callable[[_HostVariables], Any] = jmespath.compile(expression).search
        except JMESPathError as exc:
            raise AnsibleFilterError(
                f"backends: {self.key}: {self._given!r} is no JMESPath expression: {_reason(exc)}"
            ) from None
        return search

    def of(self, host: str, variables: Mapping[str, Any]) -> Any:
        """The unchecked value for `host`, null included."""
        if not self.is_expression:
            return self._given
        try:
            return self._search(_HostVariables(variables))
        except JMESPathError as exc:
            raise AnsibleFilterError(
                f"backends: host {host}: {self.key} {self._given!r} cannot be evaluated: {_reason(exc)}"
            ) from None

    def checked(self, host: str, value: Any) -> Any:
        """`value` in the type that the backend's key has; AnsibleFilterError otherwise."""
        try:
            return self._convert(value)
        except _UnfitError as exc:
            origin = f"{self._given!r} gives" if self.is_expression else "is"
            raise AnsibleFilterError(
                f"backends: host {host}: {self.key} {origin} {value!r}, which is not {exc}"
            ) from None


def _hosts(given: Any, hostvars: Mapping[str, Any]) -> list[str]:
    """Host names, from a list of them or from the name of a group."""
    if isinstance(given, str):
        groups = next((hostvars[host].get("groups") for host in hostvars), None) or {}
        if given not in groups:
            raise AnsibleFilterError(f"backends: {str(given)!r} is not a group of the inventory")
        given = groups[given]
    if not isinstance(given, Sequence):
        raise AnsibleFilterError(f"backends: the hosts are {given!r}, give a list of host names or the name of a group")
    hosts = [str(host) for host in given]
    unknown = [host for host in hosts if host not in hostvars]
    if unknown:
        raise AnsibleFilterError(f"backends: host {unknown[0]} is not in the inventory")
    return hosts


def _addresses(host: str, field: _Field, variables: Mapping[str, Any]) -> list[str]:
    value = field.of(host, variables)
    candidates = [item for item in value if item is not None] if isinstance(value, list) else [value]
    if not candidates:
        field.checked(host, value)
    return list(dict.fromkeys(field.checked(host, candidate) for candidate in candidates))


def _shared(host: str, fields: Sequence[_Field], variables: Mapping[str, Any]) -> dict[str, Any]:
    """What all backends of one host have in common: a port is never guessed, other nulls leave the key out."""
    values = [(field, field.of(host, variables)) for field in fields]
    return {
        field.key: field.checked(host, value)
        for field, value in values
        if value is not None or (field.key == "port" and field.is_expression)
    }


def backends(
    hosts: str | Sequence[str],
    hostvars: Mapping[str, Any],
    port: int | str | None = None,
    address: str = DEFAULT_ADDRESS,
    weight: int | str | None = None,
    ready: bool | str | None = None,
    node: str | None = DEFAULT_NODE,
) -> list[dict[str, Any]]:
    """One backend for each address of each host, in the order of the hosts; AnsibleFilterError for what is wrong."""
    if not isinstance(hostvars, Mapping):
        raise AnsibleFilterError("backends: the first argument has to be the variable hostvars")
    address_field = _Field("address", address, _address)
    fields = [
        _Field("port", port, _integer(1, 65535)),
        _Field("weight", weight, _integer(0, 65535)),
        _Field("ready", ready, _boolean),
        _Field("node", node, _name),
    ]
    result = []
    for host in _hosts(hosts, hostvars):
        variables = hostvars[host]
        shared = _shared(host, fields, variables)
        result += [{"address": item, **shared} for item in _addresses(host, address_field, variables)]
    return result


class FilterModule:
    """The collection's filter on inventory hosts."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"backends": backends}
