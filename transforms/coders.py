"""Coders for what travels between steps: deterministic ones for the rows that cross a shuffle.

Batches do not cross any.  But runners sometimes ask how large an element is, and pickling one with
its pixels to find out takes longer than many accelerators take to label it.
"""

import pickle
from typing import Any

from apache_beam import coders

from transforms.core.elements import (
    Batch,
    Chunk,
    DeadLetter,
    Item,
    Known,
    LateBatch,
    Ref,
    WrittenFile,
)


class InProcessCoder(coders.Coder):
    """For elements that stay within a process; pickles them if a runner insists."""

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> Any:
        return pickle.loads(encoded)

    def estimate_size(self, value: Any) -> int:
        """Bytes of its pixels, which are nearly all of it."""
        return value.pixels.nbytes if isinstance(value, Batch) else 0

    def is_deterministic(self) -> bool:
        return False


ROWS = (Ref, Item, Known, Chunk, DeadLetter, WrittenFile)
"""What crosses a shuffle: it comes out with the fields of its class, and nothing else."""

for _row in ROWS:
    coders.registry.register_coder(_row, coders.RowCoder)
for _handed_on in (Batch, LateBatch):
    coders.registry.register_coder(_handed_on, InProcessCoder)
