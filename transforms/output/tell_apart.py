"""Whether a store tells the folders of a run apart: some treat `Train` and `train` as the same.

A file system that folds names would put the rows of two partitions into one folder, under the name
of one of them.  Only the store itself knows what it folds, so it is tried with these very names.
"""

import contextlib
import itertools
import uuid
from collections import defaultdict
from collections.abc import Iterable

from transforms.core.errors import UsageError
from transforms.output.layout import Layout
from transforms.output.partitions import fold


def check(layout: Layout, folders: Iterable[str]) -> None:
    """Creates folders whose names may be the same to the store, and removes them again.

    Args:
      layout: the output, and the run.
      folders: of partitions, 'split=train/day=7/' each.

    Raises:
      UsageError: the store treats two of them, or of their parent folders, as the same.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        for path in itertools.accumulate(folder.split('/')[:-1], '{}/{}'.format):
            alike[fold(path)].add(path)
    groups = [sorted(paths) for _, paths in sorted(alike.items()) if len(paths) > 1]
    with contextlib.ExitStack() as created:
        for group in groups:
            probe = layout.uri(f'{layout.work_folder}/probe-{uuid.uuid4().hex[:12]}')
            for path in group:
                uri = f'{probe}/{path}/x'
                if not layout.store.create(uri, b''):
                    raise UsageError(
                        f'--partition_by {",".join(layout.partition_by)}: two of '
                        f'{", ".join(group)} are the same folder to the file system of '
                        f'{layout.output}; choose an --output that tells them apart, or spell '
                        'these values alike'
                    )
                created.callback(layout.store.delete, uri)
