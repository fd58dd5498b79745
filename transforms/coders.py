"""Deterministic coders for the rows that cross a shuffle, and keys from their content."""

import hashlib

from apache_beam import coders

from transforms.rows import Chunk, DeadLetter, Item, Ref, WrittenFile

for _row in (Ref, Item, Chunk, DeadLetter, WrittenFile):
    coders.registry.register_coder(_row, coders.RowCoder)


def content_hash(*texts: str) -> bytes:
    """SHA-256 over texts; the same in every process, unlike hash()."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, 'big'))
        digest.update(data)
    return digest.digest()
