"""Which GPUs the code of this process is to use: CUDA_VISIBLE_DEVICES, and the ids for `shoal.get_gpu_ids`.

A node numbers its GPUs from 0. Where the variable was set when the node was started, they are the ones that it lists, in its
order. CUDA reads it once, and keeps memory until its process ends: so a worker that has had GPUs ends with its lease.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_VARIABLE = "CUDA_VISIBLE_DEVICES"
GpuId = int | str


def use(numbers: Sequence[int]) -> list[GpuId]:
    """What runs here from now on has these GPUs of the node. Returns their ids; without any the variable stays as it is."""
    if not numbers:
        return []
    listed = [each.strip() for each in os.environ.get(_VARIABLE, "").split(",") if each.strip()]
    named = [listed[number] if number < len(listed) else str(number) for number in numbers]
    os.environ[_VARIABLE] = ",".join(named)
    return [int(name) if name.isdecimal() else name for name in named]


def get_gpu_ids() -> list[GpuId]:
    """The ids of the GPUs that this task or actor was given (`num_gpus`): of all that it has a share of; [] in a driver.

    They are numbers from 0; where CUDA_VISIBLE_DEVICES was set when the node was started, they are what it lists. In the task
    or actor that variable lists them, so that CUDA sees these GPUs only, and numbers them from 0 again. What is given no GPU
    sees what the node does.
    """
    from shoal import session  # which loads what a session needs

    runtime = session.current()
    return list(runtime.identity.gpus) if runtime is not None else []
