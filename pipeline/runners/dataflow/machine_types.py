"""GPUs of Google Cloud, and the machine types that take them.

As Compute Engine documents them, November 2026.
"""

import re
from typing import NamedTuple

from transforms.core.errors import UsageError

DRIVER = 'install-nvidia-driver:5xx'
"""CUDA 12, which TensorFlow's wheels bring, needs driver 525 or later."""

DEFAULT_MACHINE = 'n2-standard-4'
"""Without a GPU; Dataflow's own default has 3.75 GB, too little for TensorFlow and a model."""

_FORM = re.compile(r'nvidia-[a-z0-9]+(-[a-z0-9]+)*')
_VCPUS = re.compile(r'[a-z][a-z0-9]*(?:-[a-z]+)*-(\d{1,3})(?:-\d+(?:-ext)?|-lssd)?', re.ASCII)
_GPUS = re.compile(r'-(\d+)g$')
_VCPUS_PER_GPU = {'a2': 12, 'a3': 26}


class _Family(NamedTuple):
    """Machine types that take an accelerator.

    Attributes:
      prefix: what their names begin with.
      default: the type of a worker with one GPU.
      gpus: how many a machine has, by type; empty where any type takes any number.
    """

    prefix: str
    default: str
    gpus: dict[str, int]


_N1 = _Family('n1-', 'n1-standard-8', {})
_FAMILIES = {
    'nvidia-tesla-t4': _N1,
    'nvidia-tesla-p4': _N1,
    'nvidia-tesla-p100': _N1,
    'nvidia-tesla-v100': _N1,
    'nvidia-l4': _Family(
        'g2-standard-',
        'g2-standard-8',
        {
            **{f'g2-standard-{n}': 1 for n in (4, 8, 12, 16, 32)},
            'g2-standard-24': 2,
            'g2-standard-48': 4,
            'g2-standard-96': 8,
        },
    ),
    'nvidia-tesla-a100': _Family(
        'a2-', 'a2-highgpu-1g', {f'a2-highgpu-{n}g': n for n in (1, 2, 4, 8)}
    ),
    'nvidia-a100-80gb': _Family(
        'a2-ultragpu-', 'a2-ultragpu-1g', {f'a2-ultragpu-{n}g': n for n in (1, 2, 4, 8)}
    ),
    'nvidia-h100-80gb': _Family(
        'a3-highgpu-', 'a3-highgpu-1g', {f'a3-highgpu-{n}g': n for n in (1, 2, 4, 8)}
    ),
    'nvidia-rtx-pro-6000': _Family(
        'g4-standard-', 'g4-standard-48', {f'g4-standard-{48 * n}': n for n in (1, 2, 4, 8)}
    ),
}
ACCELERATORS = tuple(_FAMILIES)


def accelerator_problem(name: str, machine_type: str | None) -> str | None:
    """Why no worker can have these GPUs, or None.

    Args:
      name: the value of --accelerator.
      machine_type: of --machine_type; None if not given, '' if Dataflow chooses it.
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
    if not machine_type:
        return None
    if not machine_type.startswith(family.prefix) or (
        family.gpus and machine_type not in family.gpus
    ):
        known = ', '.join(t for t, n in family.gpus.items() if n == 1) or 'n1-standard-8'
        return f'--machine_type {machine_type} takes no {name}; types that do: {known}'
    gpus = family.gpus.get(machine_type, 1)
    if gpus != 1:
        return (
            f'--machine_type {machine_type} has {gpus} GPUs, of which a worker would call one; '
            f'take {family.default}'
        )
    return None


def machine_for(accelerator: str | None) -> str:
    """The machine type of a worker where none was asked for."""
    return _FAMILIES[accelerator].default if accelerator else DEFAULT_MACHINE


def vcpus(machine_type: str) -> int:
    """Virtual cores of a machine type, from its name.

    Raises:
      UsageError: the name does not tell.
    """
    gpus = _GPUS.search(machine_type)
    if gpus and machine_type[:2] in _VCPUS_PER_GPU:
        return int(gpus[1]) * _VCPUS_PER_GPU[machine_type[:2]]
    found = _VCPUS.fullmatch(machine_type)
    if found is None or int(found[1]) == 0:
        raise UsageError(
            f'--machine_type {machine_type!r}: its name does not end in a number of virtual cores, '
            'as that of n1-standard-8 does; take such a type'
        )
    return int(found[1])
