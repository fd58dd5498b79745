"""The format of a container, by its suffix; imported when the first of its kind is seen."""

import importlib

from transforms.core import members
from transforms.storage.containers.base import Format

_LOCATIONS = {
    '.tar': 'tar:TAR',
    '.tar.gz': 'tar:TAR_GZ',
    '.tgz': 'tar:TAR_GZ',
    '.zip': 'zip:ZIP',
    '.parquet': 'parquet:PARQUET',
    '.arrow': 'arrow:ARROW',
    '.feather': 'arrow:ARROW',
    '.tfrecord': 'tfrecord:TFRECORD',
    '.tfrecords': 'tfrecord:TFRECORD',
}


def format_of(uri: str) -> Format:
    """The format of a container.

    Raises:
      KeyError: it is none, see `transforms.core.members.is_container`.
    """
    module, _, name = _LOCATIONS[members.suffix_of(uri)].partition(':')
    found: Format = getattr(importlib.import_module(f'{__package__}.{module}'), name)
    return found
