# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facilities of the host on which a module runs."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from .._kernel import sysctl
from .._kernel.conntrack import Conntrack, ConntrackError
from .._kernel.dummy import Device, DeviceError
from .._kernel.files import FileError
from .._kernel.ipset import Ipset, IpsetError, NoIpsetError
from .._kernel.iptables import XtablesError, both_families
from .._kernel.ipvs import Ipvs, IpvsError, NoIpvsError
from .._kernel.link import LinkError
from .._kernel.nft import NftError
from .._kernel.run_lock import LockTimeout
from .._plan.transaction import UndoFailed
from .iptables.cache_scope import records_of
from .iptables.host import Kernel, NoSets
from .ipvs.compile import DEVICE
from .run import Facilities

FACILITY_ERRORS = (
    ConntrackError,
    DeviceError,
    FileError,
    IpsetError,
    IpvsError,
    LinkError,
    NftError,
    NoIpvsError,
    sysctl.SysctlError,
    LockTimeout,
    UndoFailed,
    XtablesError,
)
"""What they raise; each text is one line for the user."""


def facilities(module: AnsibleModule, prefix: str, request: str | None = None) -> Facilities:
    """prefix: that of our chains. request: the digest of what a run is asked for, where it is to leave a record for the next."""
    tables, sets = both_families(module), _sets()
    records = None if request is None else records_of(tables, prefix, request, module.check_mode)
    return Facilities(Kernel(tables, sets, Conntrack(), records), tables, sets, Device(DEVICE), sysctl, Ipvs)


def _sets() -> Ipset | NoSets:
    try:
        return Ipset()
    except NoIpsetError as error:
        return NoSets(str(error))
