# Copyright (c) 2026, layer4.service_proxy contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facilities of the host on which a module runs."""

from __future__ import annotations

from typing import Optional, Union

from ansible.module_utils.basic import AnsibleModule

from .converge import Kernel, NoSets
from .converge_memory import records_of
from .dataplane.frontends import DEVICE
from .dataplanes import Facilities
from .kernel import sysctl
from .kernel.conntrack import Conntrack, ConntrackError
from .kernel.dummy import Device, DeviceError
from .kernel.ipset import Ipset, IpsetError, NoIpsetError
from .kernel.ipvs import Ipvs, IpvsError, NoIpvsError
from .kernel.link import LinkError
from .kernel.turn import TurnError
from .kernel.xtables import XtablesError, both_families
from .transaction import UndoFailed

FACILITY_ERRORS = (
    ConntrackError,
    DeviceError,
    IpsetError,
    IpvsError,
    LinkError,
    NoIpvsError,
    sysctl.SysctlError,
    TurnError,
    UndoFailed,
    XtablesError,
)
"""What they raise; each text is one line for the user."""


def facilities(module: AnsibleModule, prefix: str, request: Optional[str] = None) -> Facilities:
    """prefix: that of our chains. request: the digest of what a run is asked for, where it is to leave a record for the next."""
    tables, sets = both_families(module), _sets()
    records = None if request is None else records_of(tables, prefix, request, module.check_mode)
    return Facilities(Kernel(tables, sets, Conntrack(), records), tables, sets, Device(DEVICE), sysctl, Ipvs)


def _sets() -> Union[Ipset, NoSets]:
    try:
        return Ipset()
    except NoIpsetError as error:
        return NoSets(str(error))
