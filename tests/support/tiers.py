"""Which tests run together, and in which order; hooks of pytest, which conftest takes over.

Three tiers: quick ones, all that `make test` runs, and what is marked slow or engine. The second is
balanced between processes by measured times, and only one of them pays for TensorFlow.
"""

import contextlib
import gc
import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.support import garbage

# Their tests load TensorFlow in this process: all of them run in one, however many there are.
TENSORFLOW = {
    'test_computing.py',
    'test_examples.py',
    'test_failing_model.py',
    'test_families.py',
    'test_output_shapes.py',
    'test_plain_loop.py',
    'test_rebuild.py',
    'test_runtimes.py',
    'test_saved_models.py',
    'test_sparse.py',
    'test_step_examples.py',
    'test_yaml.py',
}

# They fork processes from one that has imported Beam, see tests.support.forks, and share it.
FORKING = {
    'test_cli.py',
    'test_export_model.py',
    'test_fail_fast.py',
    'test_relabel.py',
    'test_resume.py',
}

# They look at the same hostile files and codings, which take seconds to make.
CORPUS = {
    'test_bounds.py',
    'test_codings.py',
    'test_decode.py',
    'test_fuzz.py',
    'test_hostile.py',
    'test_missing_pixels.py',
}

# These load neither Beam nor TensorFlow and start no server and no process: `make test-quick`.
QUICK = {
    'test_arrow.py',
    'test_canary.py',
    'test_card.py',
    'test_checkpoint.py',
    'test_choose.py',
    'test_cpu.py',
    'test_codings.py',
    'test_decode.py',
    'test_device.py',
    'test_fetch.py',
    'test_guides.py',
    'test_hashing.py',
    'test_formats.py',
    'test_layers.py',
    'test_layout.py',
    'test_manifest.py',
    'test_members.py',
    'test_missing_pixels.py',
    'test_results.py',
    'test_parquet.py',
    'test_partitions.py',
    'test_resources.py',
    'test_reasons.py',
    'test_receipt.py',
    'test_recognition.py',
    'test_rescue.py',
    'test_sealed.py',
    'test_local.py',
    'test_tables.py',
    'test_tfrecord.py',
    'test_tar.py',
    'test_texts.py',
    'test_uris.py',
    'test_weights.py',
    'test_zip.py',
}
_ROOT = Path(__file__).parents[2]
_NOT_QUICK = ('apache_beam', 'tensorflow', 'keras')
_SERVERS = {'emulator', 's3', 'azure', 'server'}

# Seconds of each file; `make test-times` measures them anew, after which nothing but order changes.
_TIMES = Path(__file__).with_name('times.json')
_measured: dict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--quick', action='store_true', help='only what is over in seconds')
    parser.addoption('--write-times', action='store_true', help=f'measure {_TIMES.name} anew')


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # They are not even imported.
    is_left_out = collection_path.suffix == '.py' and collection_path.name not in QUICK
    return True if config.option.quick and is_left_out else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each process of a whole run begins with other files, and finds the rest compiled.

    In a new checkout, where pytest rewrites the assertions of every file, each would do all of it.
    """
    config = session.config
    worker = getattr(config, 'workerinput', None)
    if worker is None or config.args != config.getini('testpaths'):
        return
    paths = sorted((_ROOT / 'tests').glob('**/test_*.py'))
    paths = [path for path in paths if not config.option.quick or path.name in QUICK]
    first = len(paths) * int(worker['workerid'].removeprefix('gw')) // worker['workercount']
    for path in paths[first:] + paths[:first]:
        # What cannot be imported is told of when it is collected.
        with contextlib.suppress(Exception):
            importlib.import_module('.'.join(path.relative_to(_ROOT).with_suffix('').parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left with a long one at the end."""
    times = json.loads(_TIMES.read_text())
    groups: dict[str, float] = defaultdict(float)
    for name in {item.path.name for item in items}:
        # One that nobody has measured may be long.
        groups[_group(name)] += times.get(name, 1e3)
    items.sort(key=lambda item: (-groups[_group(item.path.name)], _group(item.path.name)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a file to one process, or a group of files; in the order in which they are collected.

    All other ways of xdist (--dist) are passed over.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(Path(nodeid.partition('::')[0]).name)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def _group(name: str) -> str:
    for group, names in (('tensorflow', TENSORFLOW), ('forking', FORKING), ('corpus', CORPUS)):
        if name in names:
            return group
    return name


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Says of a test that is in the wrong list; whoever comes behind it in this process is none."""
    if item.get_closest_marker('slow') or item.get_closest_marker('engine'):
        return
    name = item.path.name
    if item.config.option.quick:
        found = {each for each in _NOT_QUICK if each in sys.modules}
        found |= _SERVERS.intersection(getattr(item, 'fixturenames', ()))
        assert not found, f'{name} is not quick, see {__name__}.QUICK: it needs {found}'
    is_new = 'tensorflow' in sys.modules and not item.config.stash.get(_HAS_TENSORFLOW, False)
    if is_new:
        item.config.stash[_HAS_TENSORFLOW] = True
        gc.collect()
        garbage.look_rarely()  # its modules have come only now
        assert name in TENSORFLOW, f'{name} loads TensorFlow: it belongs to {__name__}.TENSORFLOW'


_HAS_TENSORFLOW = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """As pytest's own, but a test that passes is told of once, with its fixtures' seconds.

    Two of three reports say nothing else; sent from process to process, they cost ten seconds.
    """
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if len(reports) == 3 and all(report.passed for report in reports):
        setup, call, teardown = reports
        call.duration += setup.duration + teardown.duration
        reports = [call]
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Not where it is written, which is elsewhere for tests of a contract.
    _measured[report.nodeid.partition('::')[0].rpartition('/')[2]] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.write_times and not hasattr(session.config, 'workerinput'):
        times = {name: round(sec, 1) for name, sec in sorted(_measured.items())}
        _TIMES.write_text(json.dumps(times, indent=0) + '\n')
