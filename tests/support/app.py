"""Runs of the pipeline, in this process and in others; pictures are in `tests.support.samples`."""

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import options
from pipeline.commands.label import parse_label_arguments
from pipeline.config import RunConfig
from pipeline.config import make_config as config_of
from pipeline.job.graph import build
from pipeline.job.resume import settle
from pipeline.main import main
from pipeline.messages import StandardStreams
from tests.support import quick_beam, without_model
from tests.support.samples import SAMPLE
from transforms import label as label_step
from transforms.core.elements import Batch, Chunk, Failure
from transforms.core.fail_fast import FaultPolicy
from transforms.core.resources import shared
from transforms.loading import image
from transforms.loading.threads import ThreadLoader
from transforms.model import rescue
from transforms.model.predictor import Predictor

quick_beam.install()


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended in this process, as `subprocess.CompletedProcess` tells it of one."""

    returncode: int
    stdout: str
    stderr: str


def _parse(*arguments: str) -> tuple[options.LabelOptions, beam.pipeline.PipelineOptions]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    options.add_label_arguments(parser)
    return parse_label_arguments(parser, [str(a) for a in (*without_model.IN_THREADS, *arguments)])


def make_config(*arguments: str) -> tuple[RunConfig, beam.pipeline.PipelineOptions]:
    """Options of `lemmabeam label` as the pipeline takes them; images are loaded in threads."""
    args, beam_options = _parse(*arguments)
    return config_of(args, datetime.datetime.now(datetime.UTC)), beam_options


def label(*arguments: str) -> dict[str, Any]:
    """Runs the pipeline in this process; returns its report."""
    args, beam_options = _parse(*arguments)
    config = settle(config_of(args, datetime.datetime.now(datetime.UTC)), args, StandardStreams())
    root = beam.Pipeline(options=beam_options)
    build(root, config)
    root.run().wait_until_finish()
    layout = config.layout
    data = layout.store.read(layout.uri(layout.report_path))
    assert data is not None
    report: dict[str, Any] = json.loads(data)
    return report


def load_chunk(chunk: Chunk, config: RunConfig, policy: FaultPolicy) -> Iterator[Batch]:
    """The batches of one chunk, one image after the other: what the pipeline must equal."""
    loader, size = ThreadLoader(config.load), config.load.batch_size
    side = config.load.resize.size_px
    for start in range(0, len(chunk.items), size):
        pixels = np.zeros((size, side, side, 3), np.uint8)
        outcomes = []
        for slot, item in enumerate(chunk.items[start : start + size]):
            outcome = loader.load(item, pixels[slot]).outcome
            policy.record(item.uri, outcome if isinstance(outcome, Failure) else None)
            outcomes.append(outcome)
        yield Batch(chunk, start, outcomes, pixels, {})


def predictor(config: RunConfig) -> Predictor:
    """The compiled model of a run; the same object the pipeline uses."""
    return shared(Predictor, config.inference)


def start_tensorflow() -> None:
    """Starts TensorFlow with the threads every run here uses; later they cannot be set."""
    predictor(make_config('--input', str(SAMPLE), '--output', '/nowhere')[0])


_once: dict[Any, Any] = {}


@contextlib.contextmanager
def networks_built_once() -> Iterator[None]:
    """The embedded network of each size and precision is built and traced once for all: a second.

    The function of labels, and what a model is asked when it is loaded, are each time anew.
    """
    from transforms.model import load
    from transforms.model.families.efficientnet_lite import network
    from transforms.model.runtimes.on_tensorflow import TensorFlow

    build, load_network = network.build, load.load_network
    compile_network = TensorFlow.compile_network

    def once(make: Callable[[], Any], *key: Any) -> Any:
        if key not in _once:
            _once[key] = make()
        return _once[key]

    def build_once(weights: dict[str, Any], *given: Any, **options: Any) -> Any:
        return once(lambda: build(weights, *given, **options), 'built', given, *options.items())

    def load_once(*given: Any, **options: Any) -> Any:
        *how, runtime = given
        key = 'loaded', *how, runtime.backend, *options.items()
        return once(lambda: load_network(*given, **options), *key)

    def compile_once(runtime: TensorFlow, network: Any, shape: Any, jit: bool) -> Any:
        # Kept beside it, so that no other network comes to lie where it lay.
        key = 'compiled', id(network), shape, jit
        return once(lambda: (compile_network(runtime, network, shape, jit), network), *key)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, 'build', build_once)
        patch.setattr(load, 'load_network', load_once)
        patch.setattr(TensorFlow, 'compile_network', compile_once)
        yield


@contextlib.contextmanager
def stand_in(
    predictor: type = without_model.Predictor,
    with_decoder: bool = True,
    store: without_model.Store | None = None,
) -> Iterator[None]:
    """Another model for what runs in this process, by default one that takes no time.

    Args:
      predictor: what makes it of the options of a run.
      with_decoder: decode what is read; without, the bytes need be no picture.
      store: what the images are read from, by default what their URIs say.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_step, 'Predictor', predictor)
        if not with_decoder:
            patch.setattr(image.ImageLoader, '_decode', without_model.decode)
        if store is not None:
            patch.setattr(image, 'store_for', lambda *_: store)
        yield


@contextlib.contextmanager
def before_each_call(act: Callable[[int], None]) -> Iterator[None]:
    """Has something done before each call of the model, told how many images it has."""
    predict = rescue.predict_or_rescue

    def acting(model: Any, pixels: Any, slots: Any) -> Any:
        act(len(slots))
        return predict(model, pixels, slots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_step, 'predict_or_rescue', acting)
        yield


@contextlib.contextmanager
def crashing_behind(batches: int) -> Iterator[None]:
    """A run fails as if its process were gone, when so many batches are labelled."""
    left = iter(range(batches))

    def crash(_: int) -> None:
        if next(left, None) is None:
            raise RuntimeError('in place of a crash')

    with before_each_call(crash):
        yield


def rows(folder: Path, kind: str, run: str = '*') -> list[dict[str, Any]]:
    """All rows of an output, or of one run of it, by URI."""
    found = [
        row
        for path in sorted(folder.glob(f'{kind}/*/run={run}/**/*.parquet'))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    return sorted(found, key=lambda row: row['uri'])


def invoke(*arguments: str, **environment: str) -> Done:
    """Runs `lemmabeam` in this process: seconds less than `command`, and the model is kept.

    What is not to be seen here: signals, what a process imports, and threads of TensorFlow.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            code = main(without_model.in_threads([str(argument) for argument in arguments]))
        except SystemExit as e:  # argparse, at --help and at what it refuses
            code = e.code  # type: ignore[assignment]  # argparse gives a number
    return Done(code, out.getvalue(), err.getvalue())


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `lemmabeam` as a person would, in a process of its own; mostly `invoke` will do."""
    return python('-m', 'pipeline', *arguments, **environment)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a fresh Python, at the root of the project."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=SAMPLE.parents[1],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | environment,
        check=False,
    )
