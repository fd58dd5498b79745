"""Texts for people."""

from transforms.core.texts import counted


def test_one_is_singular_and_all_others_are_plural():
    assert [counted(n, 'row') for n in (0, 1, 2, 1000)] == [
        '0 rows',
        '1 row',
        '2 rows',
        '1,000 rows',
    ]
    assert counted(1, 'class', 'es') == '1 class'
    assert counted(2, 'class', 'es') == '2 classes'
