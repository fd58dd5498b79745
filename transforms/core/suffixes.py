"""Which files are taken for images."""

IMAGE_SUFFIXES = frozenset(
    '.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs .jp2 .j2k '
    '.jpc .jpf .jpx .ico .ppm .pgm .pbm .pnm .qoi .tga .icb .vda .vst .heic .heif .hif'.split()
)
"""Suffixes (lower case) that a folder listing takes for images."""
