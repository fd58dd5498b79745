"""`lemmabeam clean`: removes what interrupted runs have left."""

import argparse

from pipeline.options import add_lease_arguments, add_store_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam clean`."""
    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument('--dry_run', action='store_true', help='only say what would be removed')
    add_lease_arguments(parser)
    add_store_arguments(parser)
