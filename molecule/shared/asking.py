# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What verification asks of every place that opens connections, whatever kind of host it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter


class Asking(ABC):
    """A place where connections begin."""

    @abstractmethod
    def traffic(self, *words: str) -> str:
        """What files/traffic.py says there, with these arguments."""

    def ask(self, address: str, port: int, count: int = 1, protocol: str = "tcp") -> Counter[str]:
        """What `count` connections or UDP flows came to, by their word: see files/traffic.py."""
        return Counter(self.traffic("ask", protocol, address, str(port), str(count)).splitlines())

    def backends(self, address: str, port: int, count: int, protocol: str = "tcp") -> set[str]:
        """The backends that answered; AssertionError if any attempt got no answer."""
        return set(self.shares(address, port, count, protocol))

    def shares(self, address: str, port: int, count: int, protocol: str = "tcp") -> dict[str, int]:
        """How often each backend answered; AssertionError if any attempt got no answer."""
        answers = self.ask(address, port, count, protocol)
        assert all(" " in word for word in answers), f"{self} to {address}:{port}/{protocol}: {dict(answers)}"
        shares: Counter[str] = Counter()
        for word, times in answers.items():
            shares[word.split()[0]] += times
        return dict(shares)

    def sources(self, address: str, port: int, count: int, protocol: str = "tcp") -> dict[str, set[str]]:
        """By backend, the addresses that it saw this place come from."""
        seen: dict[str, set[str]] = {}
        for word in self.ask(address, port, count, protocol):
            backend, dummy, source = word.partition(" ")
            seen.setdefault(backend, set()).add(source)
        return seen
