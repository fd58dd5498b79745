"""Keys from content."""

import hashlib


def content_hash(*texts: str) -> bytes:
    """SHA-256 over texts; the same in every process, unlike hash()."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, 'big'))
        digest.update(data)
    return digest.digest()


def uri_hash(uri: str) -> int:
    """The first 8 bytes of the URI's SHA-256, by which images are spread over chunks and files."""
    return int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8], 'big')


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least this number, and at least 1."""
    return 1 << max(0, least - 1).bit_length()
