"""GPUs of Google Cloud, and the machine types that take them.

As Compute Engine documents them, November 2026.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from transforms.core.errors import UsageError

DRIVER = 'install-nvidia-driver:5xx'
"""CUDA 12, which TensorFlow's wheels bring, needs driver 525 or later."""

DEFAULT_MACHINE = 'n2-standard-4'
"""Without a GPU; Dataflow's own default has 3.75 GB, too little for TensorFlow and a model."""

_FORM = re.compile(r'nvidia-[a-z0-9]+(-[a-z0-9]+)*')
_VCPUS = re.compile(r'[a-z][a-z0-9]*(?:-[a-z]+)*-(\d{1,3})(?:-\d+(?:-ext)?|-lssd)?', re.ASCII)
_GPUS = re.compile(r'-(\d+)g$')
_VCPUS_PER_GPU = {
    'a2-highgpu': 12,
    'a2-ultragpu': 12,
    'a3-highgpu': 26,
    'a3-ultragpu': 28,
    'a4-highgpu': 28,
}
_N1_VCPUS_PER_GPU = 8


class _Family(NamedTuple):
    """Machine types that take an accelerator.

    Attributes:
      prefix: what their names begin with.
      defaults: the types of workers, by the number of their GPUs.
      gpus: how many a machine has, by type; empty where any type takes any number.
    """

    prefix: str
    defaults: dict[int, str]
    gpus: dict[str, int]


def _fixed(form: str, counts: Sequence[int], per_gpu: int = 1) -> _Family:
    """A family of which each type has a number of GPUs of its own."""
    names = {form.format(per_gpu * count): count for count in counts}
    defaults = {count: name for name, count in names.items()}
    return _Family(form.partition('{')[0], defaults, names)


_N1 = _Family('n1-', {n: f'n1-standard-{_N1_VCPUS_PER_GPU * n}' for n in (1, 2, 4)}, {})
_FAMILIES = {
    'nvidia-tesla-t4': _N1,
    'nvidia-tesla-p4': _N1,
    'nvidia-tesla-p100': _N1,
    'nvidia-tesla-v100': _N1,
    'nvidia-l4': _Family(
        'g2-standard-',
        {1: 'g2-standard-8', 2: 'g2-standard-24', 4: 'g2-standard-48', 8: 'g2-standard-96'},
        {
            **{f'g2-standard-{n}': 1 for n in (4, 8, 12, 16, 32)},
            'g2-standard-24': 2,
            'g2-standard-48': 4,
            'g2-standard-96': 8,
        },
    ),
    'nvidia-tesla-a100': _fixed('a2-highgpu-{}g', (1, 2, 4, 8)),
    'nvidia-a100-80gb': _fixed('a2-ultragpu-{}g', (1, 2, 4, 8)),
    'nvidia-h100-80gb': _fixed('a3-highgpu-{}g', (1, 2, 4, 8)),
    'nvidia-h200-141gb': _fixed('a3-ultragpu-{}g', (8,)),
    'nvidia-b200': _fixed('a4-highgpu-{}g', (8,)),
    'nvidia-rtx-pro-6000': _fixed('g4-standard-{}', (1, 2, 4, 8), per_gpu=48),
}
ACCELERATORS = tuple(_FAMILIES)


def accelerator_problem(name: str, machine_type: str | None, count: int = 1) -> str | None:
    """Why no worker can have these GPUs, or None.

    Args:
      name: the value of --accelerator.
      machine_type: of --machine_type; None if not given, '' if Dataflow chooses it.
      count: how many a worker has.
    """
    if name not in _FAMILIES:
        kind = name.lower().replace('_', '-').removeprefix('nvidia-')
        near = [known for known in _FAMILIES if known.endswith(f'-{kind}')]
        if near or not _FORM.fullmatch(name):
            hint = f'did you mean {near[0]}?' if near else f'known are {", ".join(_FAMILIES)}'
            return (
                f'--accelerator {name!r}: expected the name of an NVIDIA GPU as Google Cloud has '
                f'it, such as nvidia-l4; {hint}'
            )
    family = _FAMILIES.get(name)
    if family is None:
        if machine_type is None:
            return f'--accelerator {name}: not known here; say with --machine_type which takes it'
        return None
    if count not in family.defaults:
        counts = ' or '.join(map(str, family.defaults))
        return f'--accelerators_per_worker {count}: a machine has {counts} of {name}'
    if not machine_type:
        return None
    if not machine_type.startswith(family.prefix) or (
        family.gpus and machine_type not in family.gpus
    ):
        known = [t for t, n in family.gpus.items() if n == count] or [family.defaults[count]]
        return f'--machine_type {machine_type} takes no {name}; types that do: {", ".join(known)}'
    gpus = family.gpus.get(machine_type, count)
    if gpus != count:
        return (
            f'--machine_type {machine_type} has {gpus} GPUs, of which a worker would call {count}; '
            f'take {family.defaults[count]}, or --accelerators_per_worker {gpus}'
        )
    return None


def machine_for(accelerator: str | None, count: int = 1) -> str:
    """The machine type of a worker with so many GPUs where none was asked for."""
    return _FAMILIES[accelerator].defaults[count] if accelerator else DEFAULT_MACHINE


def vcpus(machine_type: str) -> int:
    """Virtual cores of a machine type, from its name.

    Raises:
      UsageError: the name does not tell.
    """
    gpus = _GPUS.search(machine_type)
    family = machine_type[: gpus.start()] if gpus else ''
    if gpus and family in _VCPUS_PER_GPU:
        return int(gpus[1]) * _VCPUS_PER_GPU[family]
    found = _VCPUS.fullmatch(machine_type)
    if found is None or int(found[1]) == 0:
        raise UsageError(
            f'--machine_type {machine_type!r}: its name does not end in a number of virtual cores, '
            'as that of n1-standard-8 does; take such a type'
        )
    return int(found[1])
