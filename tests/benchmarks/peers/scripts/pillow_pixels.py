"""Decodes and resizes an image with Pillow."""

import numpy as np
from PIL import Image

FILTERS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


def prepare(file, card):
    """(S, S, 3) uint8 of a path or an open file: squashed, or the centre of the scaled image."""
    size, short = card['size_px'], card['short_side_px']
    with Image.open(file) as image:
        image = image.convert('RGB')
    box = None
    if short:
        # Resizes no more than the crop: what scaling everything and cropping then would give.
        scales = [round(side * short / min(image.size)) / side for side in image.size]
        starts = [
            (round(side * scale) - size) // 2
            for side, scale in zip(image.size, scales, strict=True)
        ]
        box = [edge / scale for edge, scale in zip(starts, scales, strict=True)]
        box += [(edge + size) / scale for edge, scale in zip(starts, scales, strict=True)]
    return np.asarray(image.resize((size, size), FILTERS[card['filter']], box))
