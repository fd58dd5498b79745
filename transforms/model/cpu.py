"""What the CPU of this machine can compute by itself."""

from pathlib import Path

_BFLOAT16 = ('amx_bf16', 'avx512_bf16')
"""Linux's names of x86 instructions for products of bfloat16, the fastest first."""


def bfloat16_by(cpu_info: Path = Path('/proc/cpuinfo')) -> str:
    """The instructions by which this CPU multiplies bfloat16, as Linux calls them.

    Args:
      cpu_info: where Linux tells of the CPU.

    Returns:
      Such as 'avx512_bf16'; '' if it has none, or nobody can tell.
    """
    try:
        lines = cpu_info.read_text(errors='replace').splitlines()
    except OSError:
        return ''
    flags = next((line.split() for line in lines if line.startswith('flags')), [])
    return next((name for name in _BFLOAT16 if name in flags), '')
