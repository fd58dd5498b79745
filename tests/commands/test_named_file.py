"""Files that options name: what is read of them, and what is said of those that are not there.

What is not checked here: stores (contracts.stores), and which options name files.
"""

import pytest

from pipeline import named_file
from transforms.core.errors import UsageError


def test_a_file_is_read_whole_and_a_large_one_copied(tmp_path, bucket):
    path = tmp_path / 'names.txt'
    path.write_bytes(b'cat\n')
    assert named_file.read('--labels', str(path)) == b'cat\n'
    uri = bucket.put('names.txt', b'dog\n')
    assert named_file.read('--labels', uri) == b'dog\n'
    named_file.copy(uri, tmp_path / 'copied')
    assert (tmp_path / 'copied').read_bytes() == b'dog\n'
    with pytest.raises(FileExistsError):
        named_file.copy(uri, path)
    assert path.read_bytes() == b'cat\n'


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('{}/none.txt', '--labels {}/none.txt: no such file'),
        ('{}', '--labels {}: a folder; expected a file'),
        ('https://example.com/names.txt', 'https://example.com/names.txt: .*only'),
    ],
)
def test_what_is_no_file_is_refused(name, why, tmp_path):
    with pytest.raises(UsageError, match=why.format(tmp_path)):
        named_file.read('--labels', name.format(tmp_path))
