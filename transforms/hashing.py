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
