"""Class lists: from an index of the logits to a WordNet id and a name."""

import csv
import dataclasses
import functools
import hashlib
import importlib.resources
import io

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import ModelError

_DATA = importlib.resources.files('transforms.model') / 'data'


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of a head, in the order of its logits.

    Attributes:
      name: name of the list, as in `ModelCard.vocabulary`.
      wnids: WordNet 3.0 ids such as 'n02123045', or None for classes outside WordNet.
      lemmas: every word of the synset; the first one names the class.
      definitions: WordNet's gloss, or None.
    """

    name: str
    wnids: tuple[str | None, ...]
    lemmas: tuple[tuple[str, ...], ...]
    definitions: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.wnids)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each class: its first lemma."""
        return tuple(words[0] for words in self.lemmas)

    @functools.cached_property
    def sha256(self) -> str:
        """Hex hash over what a label says: wnids and names in order."""
        lines = (
            f'{wnid or ""}\t{name}\n' for wnid, name in zip(self.wnids, self.names, strict=True)
        )
        return hashlib.sha256(''.join(lines).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Name of its Parquet file below `vocabularies/`."""
        return f'{self.name}-{self.sha256[:8]}.parquet'

    def to_parquet(self) -> bytes:
        """The vocabulary as a Parquet file, one row a class.

        Columns: index int32, wnid, name, lemmas list, definition, hypernyms list of wnids (direct
        parents in WordNet 3.0).
        """
        parents = hypernyms()
        table = pa.table(
            {
                'index': pa.array(range(len(self)), pa.int32()),
                'wnid': pa.array(self.wnids, pa.string()),
                'name': pa.array(self.names, pa.string()),
                'lemmas': pa.array(self.lemmas, pa.list_(pa.string())),
                'definition': pa.array(self.definitions, pa.string()),
                'hypernyms': pa.array(
                    [parents.get(wnid, ()) if wnid else () for wnid in self.wnids],
                    pa.list_(pa.string()),
                ),
            }
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, compression='zstd')
        return sink.getvalue()


@functools.cache
def load_vocabulary(name: str) -> Vocabulary:
    """Reads a vocabulary that comes with the package.

    Raises:
      ModelError: there is none of this name.
    """
    path = _DATA / f'{name}.tsv'
    if not path.is_file():
        raise ModelError(f'no vocabulary {name!r} comes with this package')
    with path.open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
    return Vocabulary(
        name,
        tuple(row['wnid'] for row in rows),
        tuple(tuple(row['lemmas'].split(', ')) for row in rows),
        tuple(row['definition'] for row in rows),
    )


@functools.cache
def hypernyms() -> dict[str, tuple[str, ...]]:
    """The direct parents in WordNet 3.0 of every class and of their ancestors, up to entity."""
    parents: dict[str, tuple[str, ...]] = {}
    with (_DATA / 'wordnet_hypernyms.tsv').open(encoding='utf-8') as file:
        for row in csv.DictReader(file, delimiter='\t'):
            parents[row['wnid']] = (*parents.get(row['wnid'], ()), row['hypernym'])
    return parents


def is_under(wnid: str, ancestor: str) -> bool:
    """Whether a synset is `ancestor` or one of its hyponyms."""
    seen = {wnid}
    frontier = [wnid]
    while frontier:
        current = frontier.pop()
        if current == ancestor:
            return True
        new = [parent for parent in hypernyms().get(current, ()) if parent not in seen]
        seen.update(new)
        frontier.extend(new)
    return False
