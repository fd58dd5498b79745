"""What several test modules need: pictures made from the sample, and runs of the pipeline."""

import argparse
import datetime
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipeline import options
from pipeline.build import build
from pipeline.resume import settle
from transforms.decode import decode
from transforms.model.predictor import Predictor
from transforms.model.registry import EMBEDDED
from transforms.model.sources import resolve_model
from transforms.process import shared

SAMPLE = Path(options.__file__).parent / 'sample'
PHOTOGRAPHS = sorted(
    path for path in SAMPLE.iterdir() if path.stem not in ('empty', 'half', 'notes')
)


def picture(seed: int, size: tuple[int, int] = (160, 120), file_format: str = 'JPEG') -> bytes:
    """An encoded picture, another one for each seed: a crop of one of the photographs."""
    rng = np.random.default_rng(seed)
    with Image.open(PHOTOGRAPHS[seed % len(PHOTOGRAPHS)]) as photograph:
        width, height = photograph.size
        side = int(min(width, height) * rng.uniform(0.5, 1.0))
        left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
        box = (left, top, left + side, top + side)
        image = photograph.convert('RGB').resize(size, Image.Resampling.BICUBIC, box=box)
    data = io.BytesIO()
    image.save(data, file_format)
    return data.getvalue()


BAD = {
    'notes.jpg': b'no photograph',
    'empty.png': b'',
    'half.jpg': picture(3)[:2000],
}


def write_pictures(folder: Path, count: int) -> list[Path]:
    """So many pictures, and three bad files among them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f'{seed:04d}.jpg': picture(seed) for seed in range(count)} | BAD
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _parse(*arguments: str) -> tuple[argparse.Namespace, beam.pipeline.PipelineOptions]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    options.add_label_arguments(parser)
    return options.parse_label_arguments(parser, [str(a) for a in arguments])


def make_config(*arguments: str) -> tuple[options.RunConfig, beam.pipeline.PipelineOptions]:
    """Options of `lemmabeam label` as the pipeline takes them."""
    args, beam_options = _parse(*arguments)
    return options.make_config(args, datetime.datetime.now(datetime.UTC)), beam_options


def label(*arguments: str) -> dict:
    """Runs the pipeline in this process; returns its report."""
    args, beam_options = _parse(*arguments)
    config = settle(options.make_config(args, datetime.datetime.now(datetime.UTC)), args)
    root = beam.Pipeline(options=beam_options)
    build(root, config)
    root.run().wait_until_finish()
    layout = config.layout
    return json.loads(layout.store.read(layout.uri(layout.report_path)))


def predictor(config: options.RunConfig) -> Predictor:
    """The compiled model of a run; the same object the pipeline uses."""
    return shared(Predictor, config.inference)


def start_tensorflow() -> None:
    """Starts TensorFlow with the threads every run here uses; later they cannot be set."""
    predictor(make_config('--input', SAMPLE, '--output', '/nowhere')[0])


def rows(folder: Path, kind: str, run: str = '*') -> list[dict]:
    """All rows of an output, or of one run of it, by URI."""
    found = [
        row
        for path in sorted(folder.glob(f'{kind}/*/run={run}/**/*.parquet'))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    return sorted(found, key=lambda row: row['uri'])


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs `lemmabeam` as a person would."""
    return python('-m', 'pipeline', *arguments, **environment)


def python(
    *arguments: str, timeout_sec: float = 180, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a fresh Python, at the root of the project."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=SAMPLE.parents[1],
        capture_output=True,
        text=True,
        timeout=timeout_sec,
        env=os.environ | environment,
        check=False,
    )


def decode_224(path: Path) -> np.ndarray:
    """The pixels the embedded model is given of a picture."""
    return decode(path.read_bytes(), resolve_model(EMBEDDED).card.resize)
