"""All commands by name; their modules are imported when they are asked for."""

from typing import NamedTuple


class Command(NamedTuple):
    """A command: what it does, where it is, and the option that is meant by a value without one."""

    does: str
    module: str
    stray_flag: str = ''


COMMANDS = {
    'label': Command('label every image of an input', 'label'),
    'retry': Command('label what failed in the last run and may succeed now', 'retry'),
    'clean': Command('remove what interrupted runs have left, old runs, single images', 'clean'),
    'relabel': Command(
        'label anew from the stored scores, with other thresholds', 'relabel', '--output'
    ),
    'latest': Command('write the newest row of every image and model into one file', 'latest'),
    'report': Command('write the report of a run for people, one HTML file', 'report'),
    'verify': Command('check that an output is whole and consistent, or compare two', 'verify'),
    'models': Command('list the models that are known by name, or check one', 'models', '--check'),
    'export-model': Command(
        'write a SavedModel from an official BiT checkpoint', 'export_model', '--weights'
    ),
    'completion': Command('print a script that completes commands in a shell', 'completion'),
}
