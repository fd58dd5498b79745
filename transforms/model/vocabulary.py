"""Class lists: from an index of the logits to a WordNet id and a name."""

import csv
import dataclasses
import functools
import hashlib
import importlib.resources
import io
import itertools
from collections.abc import Set
from typing import Any

from transforms.core.errors import ModelError, UsageError

NONE = 'none'
"""Name of the list without classes, for models that give features only."""

IMAGENET21K, IMAGENET22K = 'imagenet21k', 'imagenet22k'
"""21,843 classes of BiT and EfficientNetV2; the 21,841 of ConvNeXt and Swin, in the same order."""

ILSVRC2012 = 'ilsvrc2012'
"""1,000 classes."""

ANCESTORS = 'ancestors'
"""Column of the files of class lists, which those of earlier versions lack."""

# picture and bleacher
_NOT_IN_22K = frozenset({'n03931044', 'n09859684'})

_MAX_LINE_CHARS = 100_000
_DATA = importlib.resources.files('transforms.model') / 'data'


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of a head, in the order of its logits.

    Attributes:
      name: name of the list, as in `ModelCard.vocabulary`.
      wnids: WordNet 3.0 ids such as 'n02123045', or None for classes outside WordNet.
      lemmas: every word of the synset; the first one names the class.
      definitions: WordNet's gloss, or None.
      is_packaged: it comes with this package, so its name is enough to find it.
    """

    name: str
    wnids: tuple[str | None, ...]
    lemmas: tuple[tuple[str, ...], ...]
    definitions: tuple[str | None, ...]
    is_packaged: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name if that is enough: 21,843 classes take 2 MB in every step."""
        if self.is_packaged:
            return load_vocabulary, (self.name,)
        return Vocabulary, (self.name, self.wnids, self.lemmas, self.definitions)

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

    def is_it(self, index: int, expected: str) -> bool:
        """Whether a class has this name, or is this synset or below it."""
        wnid = self.wnids[index]
        return self.names[index] == expected or (wnid is not None and is_under(wnid, expected))

    def has(self, expected: str) -> bool:
        """Whether any class does."""
        return any(self.is_it(index, expected) for index in range(len(self)))

    def to_parquet(self) -> bytes:
        """The vocabulary as a Parquet file, one row per class.

        Columns: index int32, wnid, name, lemmas list, definition, hypernyms list of wnids (direct
        parents in WordNet 3.0), ancestors list of {wnid, name} (these, theirs and so on up to
        entity, the nearest first).
        """
        # Names and numbers of classes are asked for in many places that write no table.
        import pyarrow as pa
        import pyarrow.parquet as pq

        parents = hypernyms()
        ancestor = pa.struct([('wnid', pa.string()), ('name', pa.string())])
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
                ANCESTORS: pa.array(
                    [self._ancestors(wnid) if wnid else [] for wnid in self.wnids],
                    pa.list_(ancestor),
                ),
            }
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, compression='zstd')
        return sink.getvalue()

    def _ancestors(self, wnid: str) -> list[dict[str, str]]:
        return [{'wnid': each, 'name': synset_name(each)} for each in ancestors(wnid)]


def is_packaged_file(file_name: str, data: bytes) -> bool:
    """Whether these are the bytes that this version writes for a class list of its own."""
    name = file_name.rpartition('-')[0]
    if name not in vocabulary_names():
        return False
    vocabulary = load_vocabulary(name)
    return vocabulary.file_name == file_name and vocabulary.to_parquet() == data


def vocabulary_names() -> list[str]:
    """The class lists that come with the package."""
    files = (
        path.name.removesuffix('.tsv')
        for path in _DATA.iterdir()
        if path.name.endswith('.tsv') and not path.name.startswith('wordnet_')
    )
    return sorted((*files, IMAGENET22K))


@functools.cache
def class_count(name: str) -> int:
    """How many classes a list of the package has, without parsing it.

    Raises:
      UsageError: there is none of this name.
    """
    if name not in vocabulary_names():
        return len(load_vocabulary(name))
    if name == IMAGENET22K:
        return class_count(IMAGENET21K) - len(_NOT_IN_22K)
    return (_DATA / f'{name}.tsv').read_bytes().count(b'\n') - 1  # of the header


def names_by_length(classes: int) -> list[str]:
    """The class lists of the package that have this many classes."""
    return [name for name in vocabulary_names() if class_count(name) == classes]


@functools.cache
def load_vocabulary(name: str) -> Vocabulary:
    """Reads a vocabulary that comes with the package.

    Raises:
      UsageError: there is none of this name.
    """
    if name == NONE:
        return Vocabulary(NONE, (), (), (), is_packaged=True)
    if name not in vocabulary_names():
        known = ', '.join(vocabulary_names())
        raise UsageError(f'no class list {name!r} in this package; it has {known}')
    if name == IMAGENET22K:
        return _without(load_vocabulary(IMAGENET21K), _NOT_IN_22K, name)
    data = (_DATA / f'{name}.tsv').read_bytes()
    return dataclasses.replace(parse_table(name, data, name), is_packaged=True)


def check_head(vocabulary: Vocabulary, classes: int, model: str) -> None:
    """Checks that a class list fits the head whose classes it names.

    Args:
      vocabulary: the list.
      classes: of the head.
      model: its name, for messages.

    Raises:
      ModelError: the list is longer or shorter; names the one of this package that fits.
    """
    if classes == len(vocabulary):
        return
    fitting = ' or '.join(map(repr, names_by_length(classes)))
    hint = (
        f'; the class list with that many is {fitting}: set "vocabulary" in its card'
        if fitting
        else ''
    )
    raise ModelError(
        f'{model} has a head of {classes} classes, but its class list {vocabulary.name!r} has '
        f'{len(vocabulary)}{hint}'
    )


def _without(whole: Vocabulary, wnids: Set[str | None], name: str) -> Vocabulary:
    kept = [wnid not in wnids for wnid in whole.wnids]
    return dataclasses.replace(
        whole,
        name=name,
        wnids=tuple(itertools.compress(whole.wnids, kept)),
        lemmas=tuple(itertools.compress(whole.lemmas, kept)),
        definitions=tuple(itertools.compress(whole.definitions, kept)),
    )


def parse_labels(name: str, data: bytes, where: str) -> Vocabulary:
    """Reads the class list of a user's model.

    Args:
      name: of the list.
      data: UTF-8 text, one name per line in the order of the logits; or, if `where` ends in `.tsv`,
        a table with a header, see `parse_table`.
      where: the file, for messages.

    Raises:
      UsageError: it is not text, has no classes, or a class has no name.
    """
    if where.endswith('.tsv'):
        return parse_table(name, data, where)
    # Not splitlines, to which many a control character is the end of a line.
    lines = _text(data, where).replace('\r\n', '\n').removesuffix('\n').split('\n')
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError(f'{where}: line {number} is empty; expected one class name per line')
    nothing = (None,) * len(lines)
    return Vocabulary(name, nothing, tuple((line.strip(),) for line in lines), nothing)


def parse_table(name: str, data: bytes, where: str) -> Vocabulary:
    """Reads a tab-separated class list with the columns lemmas, and wnid and definition if known.

    Raises:
      UsageError: it is not such a table, has no classes, or a class has no name.
    """
    text = _text(data, where)
    # csv has a limit of its own, which others in the process may have changed.
    if any(len(line) > _MAX_LINE_CHARS for line in text.splitlines()):
        raise UsageError(f'{where}: a line has more than {_MAX_LINE_CHARS:,} characters')
    try:
        rows = list(csv.DictReader(io.StringIO(text), delimiter='\t', quoting=csv.QUOTE_NONE))
    except csv.Error as e:
        raise UsageError(f'{where}: not a table of tab-separated columns') from e
    for number, row in enumerate(rows, 2):
        if not (row.get('lemmas') or '').strip():
            raise UsageError(f'{where}: line {number} has no lemmas; the header must name them')
    if not rows:
        raise UsageError(f'{where}: has no classes')
    return Vocabulary(
        name,
        tuple(row.get('wnid') or None for row in rows),
        tuple(tuple(row['lemmas'].split(', ')) for row in rows),
        tuple(row.get('definition') or None for row in rows),
    )


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise UsageError(f'{where}: not UTF-8 text, at byte {e.start}') from e


@functools.cache
def hypernyms() -> dict[str, tuple[str, ...]]:
    """The direct parents in WordNet 3.0 of every class and of their ancestors, up to entity."""
    parents: dict[str, tuple[str, ...]] = {}
    with (_DATA / 'wordnet_hypernyms.tsv').open(encoding='utf-8') as file:
        for row in csv.DictReader(file, delimiter='\t'):
            parents[row['wnid']] = (*parents.get(row['wnid'], ()), row['hypernym'])
    return parents


@functools.cache
def ancestors(wnid: str) -> tuple[str, ...]:
    """All hypernyms of a synset, direct or not, the nearest first; () for one that is not known."""
    found: dict[str, None] = {}
    frontier = [wnid]
    while frontier:
        above = [parent for each in frontier for parent in hypernyms().get(each, ())]
        frontier = [parent for parent in dict.fromkeys(above) if parent not in found]
        found |= dict.fromkeys(frontier)
    return tuple(found)


@functools.cache
def _synset_names() -> dict[str, str]:
    names: dict[str, str] = {}
    for file_name in ('imagenet21k.tsv', 'wordnet_ancestors.tsv'):
        # Split by hand: five times as fast as the csv module for so many lines.
        lines = (_DATA / file_name).read_text(encoding='utf-8').rstrip('\n').split('\n')
        header, *rows = (line.split('\t') for line in lines)
        wnid, lemmas = header.index('wnid'), header.index('lemmas')
        names |= {row[wnid]: row[lemmas].split(', ')[0] for row in rows}
    return names


def synset_name(wnid: str) -> str:
    """The first lemma of a class of ImageNet or of an ancestor of one."""
    return _synset_names()[wnid]


def is_under(wnid: str, ancestor: str) -> bool:
    """Whether a synset is `ancestor` or one of its hyponyms."""
    return wnid == ancestor or ancestor in ancestors(wnid)
