"""From URIs to pixels: those that the decoder gives, and dead letters for the rest."""

import apache_beam as beam
import lemmabeam as lb
import numpy as np

from tests.support import samples
from tests.support.collected import collect, taken
from transforms.images.decode import decode


def test_every_image_is_as_its_decoder_has_it(tmp_path):
    paths = samples.write_pictures(tmp_path, 10)
    step = lb.ReadImages(model_size=64, batch_size=4, chunk_size=8, loader_processes=0)
    first = str(paths[0])
    with beam.Pipeline('FnApiRunner') as pipeline:
        read = (
            pipeline
            | beam.Create([*map(str, paths), first, (first, {'a': 'b'}), 's3://A/b'])
            | step
        )
        collect(read.images, 'images')
        collect(read.dead_letters, 'dead')
    images = taken('images')
    keys = [key for key, _ in images]
    assert sorted(map(str, keys)) == sorted([*map(str, paths[:10]), str((first, {'a': 'b'}))])
    for key, pixels in images:
        path = key if isinstance(key, str) else key[0]
        data = next(each for each in paths if str(each) == path).read_bytes()
        assert np.array_equal(pixels, decode(data, step.config.load.resize))
        assert pixels.base is None, 'one that is kept would keep its batch'
    dead = taken('dead')
    assert sorted(row.reason for row in dead) == ['bad_uri', 'empty', 'not_an_image', 'truncated']
    assert {row.size_bytes for row in dead} >= {0, None}
