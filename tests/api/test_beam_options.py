"""Options of Beam, as Python people have them."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.api.beam_options import beam_options_of
from transforms.core.errors import UsageError

FLAGS = [
    '--runner=FlinkRunner',
    '--parallelism=3',
    '--streaming',
    '--experiments=a',
    '--experiments=b',
]


def test_flags_a_dict_and_options_mean_the_same():
    by_name = {'runner': 'FlinkRunner', 'parallelism': 3, 'streaming': True}
    by_name |= {'experiments': ['a', 'b'], 'dry_run': False, 'job_name': None}
    found = [
        beam_options_of(given).get_all_options(drop_default=True)
        for given in (FLAGS, by_name, PipelineOptions(FLAGS))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]['runner'] == 'FlinkRunner'


def test_without_any_beam_s_local_runner_works():
    assert beam_options_of(None).get_all_options()['runner'] == 'FnApiRunner'


def test_what_is_none_of_beam_s_is_refused():
    for given in (['--jobname=x'], {'jobname': 'x'}):
        with pytest.raises(UsageError, match=r'did you mean --job_name\?'):
            beam_options_of(given)


@pytest.mark.parametrize(
    ('flag', 'name', 'value'),
    [
        ('--no_use_public_ips', 'use_public_ips', False),
        ('--no_pipeline_type_check', 'pipeline_type_check', False),
        ('--pubsub_root_url=http://x', 'pubsubRootUrl', 'http://x'),
        ('--transform_name_mapping={"a": "b"}', 'transform_name_mapping', {'a': 'b'}),
    ],
)
def test_an_option_that_is_not_called_as_its_flag_holds_as_well(flag, name, value):
    for given in ([flag], {name: value}, PipelineOptions([flag])):
        assert beam_options_of(given).get_all_options()[name] == value
