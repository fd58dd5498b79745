"""What a process has to import before it can begin, looked at in fresh ones.

What is not checked here: how long it takes, and who imports whom (test_layers).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.datasets import Row, add_run
from transforms.dataset.latest_sql import write_latest_sql
from transforms.storage.registry import store_for

ROOT = Path(__file__).parents[1]

# What a process needs that fetches and decodes, and does nothing else; cheap ones first, as what
# one has imported stays.
LOADING = """
    core.elements core.errors core.uris core.resources model.card images.decode storage.registry
    storage.local storage.http
""".split()
HEAVY = ['apache_beam', 'tensorflow', 'keras', 'onnxruntime', 'pyarrow', 'pandas', 'grpc']
HEAVY += ['google.cloud']


def found_after_each(steps, wanted):
    """Which of the wanted modules there are after each of some lines of Python, in one process."""
    program = f"""
import json, sys
found = {{}}
for step in {steps!r}:
    exec(step)
    found[step] = [name for name in {wanted!r} if name in sys.modules]
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


# What commands run that compute nothing, and their parsers.
WITHOUT_BEAM = [
    'transforms.dataset.verify',
    'pipeline.report.html.report',
    *(f'pipeline.commands.{name}' for name in 'clean latest relabel models export_model'.split()),
]
# What nobody needs who asks how a command is called, or has called it wrongly.
UNASKED = [*HEAVY, 'PIL', 'requests', 'rich', 'transforms.images.decode']
SAID = {
    ('--version',): 0,
    ('--help',): 0,
    ('no-such-command',): 2,
    ('label', '--help'): 0,
    ('label', '--help-all'): 0,
    ('label', '--version'): 0,
    ('retry', '--help'): 0,
    ('report', '--help'): 0,
    ('verify', '--help'): 0,
    ('label',): 2,
    ('label', '--input', 'a'): 2,
    ('label', '--max_pixels', 'many'): 2,
    ('retry',): 2,
    ('retry', '--output', '/nonexistent'): 2,
    ('report', 'a', '--report_thumbnails', '201'): 2,
    ('verify', '--s3_endpoint_url'): 2,
}
# The code with which a command ends that prints to nobody.
ENDED = """
import contextlib, io
from pipeline.main import main
def ended(*argv):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return main(argv)
        except SystemExit as e:
            return e.code
"""


def test_what_fetches_and_decodes_needs_no_beam_no_tensorflow_and_no_cloud():
    steps = [f'import transforms.{name}' for name in LOADING]
    assert found_after_each(steps, HEAVY) == {step: [] for step in steps}


def test_a_store_is_imported_when_the_first_uri_of_its_is_seen():
    stores = [f'transforms.storage.{name}' for name in ('local', 'http', 's3', 'gcs', 'azure')]
    clients = ['urllib3', 'google.auth', 'botocore', 'azure.core']
    ask = 'from transforms.storage.registry import store_for; store_for({!r})'.format
    steps = ['import transforms.storage.registry', ask('/a'), ask('https://example.com/a')]
    assert list(found_after_each(steps, stores + clients).values()) == [
        [],
        stores[:1],
        [*stores[:2], 'urllib3'],
    ]


def test_commands_that_compute_nothing_need_no_beam_and_no_tensorflow():
    steps = [f'import {name}' for name in WITHOUT_BEAM]
    unwanted = [name for name in HEAVY if name != 'pyarrow']
    assert found_after_each(steps, unwanted) == {step: [] for step in steps}


def test_commands_that_read_tables_need_no_pandas(tmp_path):
    add_run(tmp_path, 'a', [Row('/a', [(1, 0.9)])])
    write_latest_sql(str(tmp_path), store_for(str(tmp_path)))
    target = tmp_path.with_suffix('.parquet')
    commands = [
        ['verify', str(tmp_path)],
        ['latest', str(tmp_path), '--output', str(target)],
        ['relabel', '--output', str(tmp_path)],
        ['clean', str(tmp_path)],
        ['models'],
    ]
    steps = ['from pipeline.main import console']
    for command in commands:
        steps.append(f"""
try:
    console({command!r})
except SystemExit as e:
    assert e.code == 0
""")
    unwanted = ['pandas', 'apache_beam', 'tensorflow', 'requests']
    assert found_after_each(steps, unwanted) == {step: [] for step in steps}


@pytest.mark.slow  # imports Beam and TensorFlow in a process of its own
def test_beam_and_tensorflow_bring_no_pandas_and_no_jax_into_a_command():
    begun = """
from pipeline.main import console
try:
    console(['label', '--version'])
except SystemExit:
    pass
"""
    steps = [begun, 'import pipeline.job.labelling', 'import transforms.model.sparse']
    wanted = ['apache_beam', 'keras', 'pandas', 'jax', 'onnxruntime']
    found = found_after_each(steps, wanted)
    assert list(found.values()) == [[], ['apache_beam'], ['apache_beam', 'keras']]


def test_help_and_wrong_usage_are_said_at_once():
    steps = [f'assert ended(*{said!r}) == {code}' for said, code in SAID.items()]
    assert found_after_each([ENDED, *steps], UNASKED) == {step: [] for step in [ENDED, *steps]}
