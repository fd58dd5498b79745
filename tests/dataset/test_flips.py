"""A flipped bit of any durable file: named or harmless, never accepted, nothing lost, no crash."""

import collections
import contextlib

import pytest

from tests.support.flip_bits import GOOD, Flip, Judge, Output, Worker, flips_of, search

PER_FILE = 5


@pytest.fixture
def output(tmp_path):
    made = Output(tmp_path / 'out')
    made.make()
    return made


def test_some_bits_of_each_file(output):
    flips = flips_of(output, PER_FILE * len(output.files()), seed=2)
    judge = Judge(output)
    found = collections.Counter(judge.outcome(flip) for flip in flips)
    assert found.keys() <= GOOD
    assert found['named'] > found['done again'] >= 3 * PER_FILE


class Careless(Output):
    """Reads what there is, whatever its checksum; so many times, then it fails."""

    def readers(self, path):
        return {'careless': lambda: self._read(path)}

    def _read(self, path):
        data = (self.root / path).read_bytes()
        if self.reads_left == 0:
            raise IndexError('moon')
        self.reads_left -= 1
        return data


def test_what_it_looks_for_is_found(output):
    careless = Careless(output.root)
    careless.reads_left = 1 + sum('/chunks/' not in path for path in output.files())
    judge = Judge(careless)
    flip = Flip('dataset.json', 99)
    assert judge.outcome(flip) == 'accepted by careless'
    assert judge.outcome(flip) == 'IndexError: moon'


@pytest.mark.slow  # of the one below only, and starts three of its processes
def test_a_process_that_is_gone_is_a_crash(output):
    with contextlib.closing(Worker(output.root)) as worker:
        flip = Flip('latest.sql', 99)
        assert worker.ask(flip) == 'named'
        worker.process.kill()
        worker.process.wait()
        assert worker.ask(flip) == 'crash'
        assert worker.ask(flip) == 'named'


@pytest.mark.slow  # ten thousand flips, in processes of their own
def test_ten_thousand_flips(tmp_path):
    found = collections.Counter(outcome for _, outcome in search(tmp_path, 10_000, seed=1))
    assert found.total() == 10_000
    assert found.keys() <= GOOD
