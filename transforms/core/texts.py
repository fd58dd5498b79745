"""Texts for people."""


def counted(count: int, word: str, plural: str = 's') -> str:
    """'1 label', '1,000 labels'; `plural` is what the word gets for more than one."""
    return f'{count:,} {word}{"" if count == 1 else plural}'
