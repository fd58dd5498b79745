"""Deterministic coders for the rows that cross a shuffle."""

from apache_beam import coders

from transforms.rows import Chunk, DeadLetter, Item, Known, Ref, WrittenFile

for _row in (Ref, Item, Known, Chunk, DeadLetter, WrittenFile):
    coders.registry.register_coder(_row, coders.RowCoder)
