"""What the CPU can compute by itself, as Linux tells it."""

import pytest

from transforms.model.cpu import bfloat16_by


@pytest.mark.parametrize(
    ('text', 'name'),
    [
        ('processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16 amx_tile\n', 'amx_bf16'),
        ('processor\t: 0\nflags\t\t: fpu avx512_bf16\nprocessor\t: 1\n', 'avx512_bf16'),
        ('flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n', ''),
        ('Features\t: fp asimd bf16\n', ''),
        ('', ''),
    ],
)
def test_the_instructions_for_bfloat16(text, name, tmp_path):
    path = tmp_path / 'cpuinfo'
    path.write_text(text)
    assert bfloat16_by(path) == name


def test_a_system_that_does_not_tell(tmp_path):
    assert bfloat16_by(tmp_path / 'nowhere') == ''
