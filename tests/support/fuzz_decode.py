"""A coverage-guided fuzzer of the decoder: `python -m tests.support.fuzz_decode [--seconds N]`.

It starts from the corpus and keeps what reaches new lines of `transforms.images.decode`,
`transforms.images.headers` or Pillow's own Python; codecs in C are not instrumented.  A file that
raises anything but ImageError, takes ten seconds or two gigabytes is saved.  Exits with 0 where
none was found, and then prints the executions and the features covered.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from transforms.core.limits import PixelLimits

_ROOT = Path(__file__).parents[2]
_SEED = 1
_MAX_FILE_BYTES = 20_000
_FILE_SEC = 10
_MEMORY_MB = 2048
_PROGRESS = re.compile(r'^#(\d+)\s+\w+\s+(?:cov: (\d+) )?ft: (\d+)', re.MULTILINE)


def fuzz(arguments: list[str]) -> None:
    """Runs libFuzzer in this process, which it ends."""
    import atheris

    # With all of Pillow: what is imported before is not instrumented.
    with atheris.instrument_imports(
        include=['PIL', 'transforms.images.decode', 'transforms.images.headers'],
        enable_loader_override=False,
    ):
        from transforms.images import decode
    from transforms.core.errors import ImageError
    from transforms.images.resize import Resize

    resize = Resize(size_px=32, short_side_px=36, filter='bilinear')
    limits = PixelLimits(max_px=250_000, max_baseline_jpeg_px=1_000_000)

    def decode_one(data: bytes) -> None:
        try:
            decode.decode(data, resize, limits)
        except ImageError:
            return

    atheris.Setup([sys.argv[0], *arguments], decode_one)
    atheris.Fuzz()


def main() -> int:
    """Writes the corpus, and fuzzes in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=int, default=60, help='how long (default: 60)')
    parser.add_argument(
        '--crashers', type=Path, default=Path('crashers'), help='folder for what is found'
    )
    args = parser.parse_args()
    args.crashers.mkdir(parents=True, exist_ok=True)
    from tests.support import mutations  # it imports Pillow, which `fuzz` must be the first to do

    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(mutations.seeds()):
            if len(data) <= _MAX_FILE_BYTES:
                Path(folder, f'{i:04d}').write_bytes(data)
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'tests.support.fuzz_decode', '--fuzz'),
                f'-max_total_time={args.seconds}',
                f'-seed={_SEED}',
                f'-max_len={_MAX_FILE_BYTES}',
                f'-timeout={_FILE_SEC}',
                f'-rss_limit_mb={_MEMORY_MB}',
                f'-artifact_prefix={args.crashers}/',
                folder,
            ],
            cwd=_ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        kept = len(list(Path(folder).iterdir()))
    reports = _PROGRESS.findall(done.stderr)
    if done.returncode or not reports:
        print(done.stderr[-20_000:], file=sys.stderr)
        return done.returncode or 1
    executions, blocks, features = reports[-1]
    print(f'{executions} executions, {blocks or 0} blocks, {features} features, {kept} files kept')
    return 0


if __name__ == '__main__':
    if sys.argv[1:2] == ['--fuzz']:
        fuzz(sys.argv[2:])
    sys.exit(main())
