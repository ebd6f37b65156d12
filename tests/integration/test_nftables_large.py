# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""As many elements of nftables as a hundred thousand services have: written and read whole, within bounds of memory."""

from __future__ import annotations

import sys
from pathlib import Path

from nft_host import NftHost

HUNDRED_THOUSAND = """
import resource
from ansible_collections.layer4.service_proxy.plugins.module_utils._kernel.nftables import Nftables
from ansible_collections.layer4.service_proxy.plugins.module_utils._plan.nftables import plan_tables
from ansible_collections.layer4.service_proxy.tests.unit.nftables_samples import many
wanted = many(100_000)
with Nftables() as nft:
    for transaction in plan_tables(wanted, {}).transactions(nft.send_limit()):
        nft.apply(transaction)
    held, dummy = nft.tables(list(wanted))
assert held == wanted
assert not plan_tables(wanted, held).changed
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_hundred_thousand_services_take_less_than_a_gibibyte() -> None:
    """Both states in memory, 400,000 elements each."""
    collections = str(Path(__file__).parents[2] / ".cache" / "collections")
    with NftHost() as host:
        argv = (sys.executable, "-c", HUNDRED_THOUSAND)
        done = host.namespace.run(*argv, env={"PYTHONPATH": collections}, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1024
