"""Two and six at once, again and again: real processes, real stores, each meeting 200 times.

Slow: minutes of what can only be found by trying often.
"""

import itertools
import json
import multiprocessing
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from tests.support.attempts import RUN, KilledError, attempt, faults, layout_of
from transforms.core.errors import StoreError, UsageError
from transforms.output.layout import Layout
from transforms.runs import lease
from transforms.runs.complete import read_run
from transforms.runs.publish import discard
from transforms.storage.registry import store_for

pytestmark = pytest.mark.slow

ROUNDS = 200
_WAIT_SEC = 120


@pytest.fixture(params=['local', 'bucket', 's3_bucket', 'container'])
def place(request, tmp_path) -> str:
    """A folder of each kind of store."""
    if request.param == 'local':
        return str(tmp_path)
    return request.getfixturevalue(request.param).uri('out')


class Racers:
    """Processes that do the same at the same moment, each as one of so many.

    Args:
      count: of them.
      run: called in each with a place and its number; what it returns is sent back.
    """

    def __init__(self, count: int, run: Any):
        context = multiprocessing.get_context('spawn')
        self._barrier = context.Barrier(count)
        self._answers: Queue = context.Queue()
        self._places = [context.Queue() for _ in range(count)]
        self._processes = [
            context.Process(
                target=_race,
                args=(run, number, places, self._barrier, self._answers),
                daemon=True,
            )
            for number, places in enumerate(self._places)
        ]
        for process in self._processes:
            process.start()

    def race(self, place: Any) -> list[Any]:
        """Lets them all go; what each has to say, in the order of their numbers."""
        for places in self._places:
            places.put(place)
        answers = [self._answers.get(timeout=_WAIT_SEC) for _ in self._places]
        return [said for _, said in sorted(answers, key=lambda answer: answer[0])]

    def close(self) -> None:
        for places in self._places:
            places.put(None)
        for process in self._processes:
            process.join(_WAIT_SEC)


def _race(run: Any, number: int, places: Queue, barrier: Barrier, answers: Queue) -> None:
    while (place := places.get()) is not None:
        barrier.wait(_WAIT_SEC)
        try:
            said = run(place, number)
        except Exception as e:  # noqa: BLE001 (told to the test)
            said = f'{type(e).__name__}: {e}'
        answers.put((number, said))


@pytest.fixture
def racers(request) -> Iterator[Racers]:
    made = Racers(*request.param)
    yield made
    made.close()


def take(place: str, number: int) -> str:
    """Takes a lease; 'got it' or 'refused'."""
    try:
        lease.acquire(Layout(place, f'run-{number}', 'm', (), (), 1), False)
    except UsageError as e:
        return 'refused' if 'is writing there' in str(e) else str(e)
    return 'got it'


def give_back(place: str, number: int) -> str:
    """The same, and gives it back at once: the next one may have it then."""
    said = take(place, number)
    if said == 'got it':
        holder = json.loads(store_for(place).read(f'{place}/_work/_lease.json') or b'{}')
        if holder.get('run_id') != f'run-{number}':
            return f'another has it: {holder}'
        lease.release(Layout(place, f'run-{number}', 'm', (), (), 1))
    return said


def leave_dead(place: str) -> str:
    """Leaves the lease of a process that has ended in a folder that nobody has used."""
    folder = f'{place}/{uuid.uuid4().hex}'
    holder = {'run_id': 'dead', **lease.identity(os.getpid()), 'pid': 2**22 + 1}
    store_for(folder).write(f'{folder}/_work/_lease.json', json.dumps(holder).encode())
    return folder


@pytest.mark.parametrize('racers', [(2, take), (6, take)], indirect=True, ids=['two', 'six'])
def test_a_dead_holder_is_followed_by_one(place, racers):
    found: dict[int, int] = {}
    for _ in range(ROUNDS):
        folder = leave_dead(place)
        said = racers.race(folder)
        holders = [f'run-{i}' for i, each in enumerate(said) if each == 'got it']
        assert set(said) <= {'got it', 'refused'}, said
        written = json.loads(store_for(folder).read(f'{folder}/_work/_lease.json'))
        assert written['run_id'] in holders
        found[len(holders)] = found.get(len(holders), 0) + 1
    print(f'rounds by holders: {found}')
    assert found == {1: ROUNDS}


@pytest.mark.parametrize('racers', [(6, give_back)], indirect=True, ids=['six'])
def test_nobody_gives_back_the_lease_of_another(place, racers):
    for _ in range(ROUNDS // 4):
        folder = leave_dead(place)
        said = racers.race(folder)
        assert set(said) <= {'got it', 'refused'}, said
        assert 'got it' in said
        assert store_for(folder).read(f'{folder}/_work/_lease.json') is None


def publish_slowly(place: tuple[str, int], number: int) -> Any:
    """An attempt that dawdles at each step, and in every third race is killed at one of them.

    Returns:
      The files that its report lists, 'killed', or what stopped it.
    """
    output, seed = place
    rng = random.Random(f'{seed} {number}')
    ends_at = rng.randrange(40) if seed % 3 == 0 else None
    steps = itertools.count()

    def dawdle(_: str) -> None:
        if next(steps) == ends_at:
            raise KilledError
        if rng.random() < 0.5:
            time.sleep(rng.choice((0.001, 0.005, 0.02)))

    layout = layout_of(output, f'attempt-{number}', dawdle)
    try:
        return attempt(layout, uris_of(seed, number)).files
    except KilledError:
        return 'killed'
    except StoreError as e:
        discard(layout_of(output, f'attempt-{number}'))
        return f'stopped: {e}'


def uris_of(seed: int, number: int) -> list[str]:
    """In every other race, one of two finds an image gone."""
    return [f'/a/{i}.jpg' for i in range(6 - (number if seed % 2 else 0))]


@pytest.mark.parametrize('racers', [(2, publish_slowly)], indirect=True, ids=['two'])
def test_two_publish_the_same_run(place, racers):
    """Whoever says that the run is complete has told the truth, then and for ever."""
    ended: Counter[str] = Counter()
    for seed in range(ROUNDS):
        output = f'{place}/{uuid.uuid4().hex}'
        said = racers.race((output, seed))
        if not any(isinstance(each, tuple) for each in said):
            said.append(attempt(layout_of(output, 'last'), uris_of(seed, 0)).files)
        assert faults(output, [uris_of(seed, number) for number in (0, 1)]) == [], (seed, said)
        store = store_for(output)
        files = read_run(output, RUN, store).report.files
        for each in said:
            ended['complete' if isinstance(each, tuple) else each.partition(':')[0]] += 1
            assert each == files or isinstance(each, str), (seed, said)
            assert isinstance(each, tuple) or each.startswith(('killed', 'stopped: ')), (seed, each)
    print(f'attempts by how they ended: {dict(ended)}')
