"""Our steps from a manifest to batches of pixels, without a model."""

import json
import sys
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.chunks import DropDone, MakeChunks
from transforms.core.elements import Batch, Image
from transforms.core.fail_fast import FailFast
from transforms.core.limits import DEFAULT_LIMITS
from transforms.core.stores import HttpOptions, StoreOptions
from transforms.history import ReadHistory
from transforms.images.resize import Resize
from transforms.load import LoadImages
from transforms.loading.options import LoadOptions
from transforms.output.layout import Layout
from transforms.read import ReadRefs
from transforms.sources.inputs import Columns, Listing
from transforms.sources.preflight import Preflight
from transforms.sources.resolve import resolve
from transforms.storage.base import FetchLimits

_COLUMNS = Columns('uri', (), ())
_OPTIONS = LoadOptions(
    # The centre square, as img2dataset's center_crop takes it.
    resize=Resize(224, short_side_px=224, filter='bilinear'),
    batch_size=32,
    fetch=FetchLimits(max_bytes=64 * 2**20, deadline_sec=60.0),
    pixels=DEFAULT_LIMITS,
    memory_budget_bytes=512 * 2**20,
    threads=16,
    # The server is on this machine.
    stores=StoreOptions(http=HttpOptions(allow_private_hosts=True)),
)


def _loaded(batch: Batch) -> int:
    return sum(isinstance(outcome, Image) for outcome in batch.outcomes)


def main(manifest: Path, output: Path) -> None:
    """Writes into a new folder how many images of a manifest were loaded, as JSON."""
    output.mkdir()
    with beam.Pipeline(options=PipelineOptions(['--runner=FnApiRunner'])) as root:
        layout = Layout(str(output), 'bench', 'none', (), (), 1)
        listing = Listing((resolve(str(manifest), _COLUMNS),), _COLUMNS)
        refs, access, _ = root | 'ReadRefs' >> ReadRefs(listing, layout)
        known = root | 'ReadHistory' >> ReadHistory((), layout)
        items, *_ = {
            'refs': refs,
            'known': known,
            'access': access,
        } | 'DropDone' >> DropDone()
        preflight = Preflight((), _COLUMNS, _OPTIONS.fetch, layout)
        (
            items
            | 'MakeChunks' >> MakeChunks(1024, None)
            | 'LoadImages' >> LoadImages(_OPTIONS, preflight, FailFast(20, 'bench'))
            | 'CountLoaded' >> beam.Map(_loaded)
            | 'Sum' >> beam.CombineGlobally(sum)
            | 'ToJson' >> beam.Map(json.dumps)
            | 'Write' >> beam.io.WriteToText(str(output / 'count'), num_shards=1)
        )


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:]))
