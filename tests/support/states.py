"""States of an output that are made once, and what a run finds out before its graph: no Beam."""

import argparse
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline import options
from pipeline.commands import label
from pipeline.config import RunConfig, make_config
from pipeline.job.resume import settle
from pipeline.messages import StandardStreams
from transforms.runs.history import read_history
from transforms.sources import snapshot
from transforms.sources.listing import list_input


class Place:
    """A folder that is put back into the state a test wants, at the same path each time.

    Rows, versions and `latest.sql` name the paths and the times of files; so the folder stays where
    it is, and the states lie beside it.

    Args:
      folder: empty.
      make: how each state is made, by name; called once, in the emptied folder.
    """

    def __init__(self, folder: Path, make: dict[str, Callable[['Place'], None]]):
        self.root = folder / 'place'
        self._saved = folder / 'saved'
        self._make = make

    def at(self, name: str) -> Path:
        """Puts the folder into a state; returns it."""
        saved = self._saved / name
        if not saved.exists():
            self.empty()
            self._make[name](self)
            self.save(name)
        self.empty()
        shutil.copytree(saved, self.root, symlinks=True, dirs_exist_ok=True)
        return self.root

    def save(self, name: str) -> None:
        """Keeps what there is now as a state, with the times of its files."""
        shutil.copytree(self.root, self._saved / name, symlinks=True)

    def empty(self) -> None:
        """Removes all there is."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()


def settled(*arguments: object) -> RunConfig:
    """The run that `lemmabeam label` would do now; it has begun, but has no graph yet."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    options.add_label_arguments(parser)
    args, _ = label.parse_label_arguments(parser, [str(a) for a in arguments])
    return settle(make_config(args, datetime.datetime.now(datetime.UTC)), args, StandardStreams())


def begin(*arguments: object) -> RunConfig:
    """Leaves what a run does that ends right behind its listing."""
    config = settled(*arguments)
    for number, source in enumerate(config.listing.inputs):
        snapshot.freeze(config.layout, number, list_input(source, config.listing.columns))
    return config


def known_to(config: RunConfig) -> dict[str, str]:
    """What a run leaves alone as long as it has the same version: {URI: version}."""
    return {
        uri: known.version
        for file in config.history
        if not file.is_hint
        for uri, known in read_history(file, config.layout)
    }
