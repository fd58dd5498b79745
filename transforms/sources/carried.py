"""Carried columns: text that travels from the inputs to the output beside each image."""

import json
from collections.abc import Sequence

from transforms.core import uris
from transforms.core.errors import ImageError
from transforms.output.partitions import DEFAULT_PARTITION, folder_of_values
from transforms.sources.inputs import Columns

NO_CARRIED = '[]'
_MAX_CARRIED_CHARS = 65_536


def carried_of(
    values: Sequence[str | None], partitions: Sequence[int], columns: Columns
) -> tuple[str, str]:
    """Carried values as they travel, and what is wrong with them; '' if nothing is."""
    if not values:
        return NO_CARRIED, ''
    longest = max((len(value) for value in values if value), default=0)
    checked = [value and _carried_text(value) for value in values]
    for place in partitions:
        if checked[place] in ('', DEFAULT_PARTITION):
            checked[place] = None  # Hive writes all three as one folder
    carried = json.dumps(checked, ensure_ascii=False)
    try:
        carried.encode()
        # Too long a folder name is refused here, not after the inference was paid.
        folder_of_values(columns.partition_by, [checked[place] for place in partitions])
    except UnicodeEncodeError:
        # Escaped: what cannot be stored is still told apart.
        return json.dumps(checked), 'a carried value is not valid UTF-8'
    except ImageError as e:
        return carried, e.detail
    if longest > _MAX_CARRIED_CHARS:
        return carried, f'a carried value of {longest} characters, limit {_MAX_CARRIED_CHARS}'
    return carried, ''


def _carried_text(value: str) -> str:
    is_long = len(value) > _MAX_CARRIED_CHARS
    return uris.printable(value) if is_long else uris.without_secrets_in(value)
