"""The options that Beam is given by a command line."""

import copy

from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from pipeline import beam_options
from pipeline.parser import Parser


def parsed(*flags: str):
    return beam_options.parse(list(flags), Parser(prog='lemmabeam label'))


def test_views_are_made_once_and_share_their_values():
    options = parsed('--direct_num_workers=3')
    view = options.view_as(DirectOptions)
    assert options.view_as(DirectOptions) is view
    assert (view.direct_num_workers, view.view_as(StandardOptions).runner) == (3, 'FnApiRunner')
    options.view_as(StandardOptions).runner = 'PrismRunner'
    assert view.view_as(StandardOptions).runner == 'PrismRunner'
    assert options.get_all_options()['runner'] == 'PrismRunner'


def test_a_copy_has_views_of_its_own():
    options = parsed('--direct_num_workers=3')
    view = options.view_as(DirectOptions)
    copied = copy.deepcopy(options)
    copied.view_as(DirectOptions).direct_num_workers = 4
    assert (view.direct_num_workers, copied.view_as(DirectOptions).direct_num_workers) == (3, 4)
    assert '_views' not in options.__getstate__()
