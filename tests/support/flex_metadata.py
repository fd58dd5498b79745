"""templates/dataflow/metadata.json, made of the parser of `lemmabeam label`.

python -m tests.support.flex_metadata        writes it anew
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline import options
from pipeline.commands import label
from pipeline.commands.template import LAUNCHER_ONLY
from transforms.runs.in_progress import RUN_ID

METADATA = Path(__file__).parents[2] / 'templates' / 'dataflow' / 'metadata.json'

_GCS = r'gs://[^/\s][^\n]*'
_SOURCE = r'\s*(gs|s3)://[^/\s][^\n]*'
# As the parser has it, or stricter; options that are any text to it have none, or stand below.
_BY_TYPE = {
    options.positive: ('NUMBER', r'[1-9][0-9]{0,17}'),
    options._natural: ('NUMBER', r'[0-9]{1,18}'),
    options._share: ('NUMBER', r'0|1|0?\.[0-9]+|0\.[0-9]+|1\.0+|[0-9](\.[0-9]+)?e-[0-9]{1,2}'),
    options._positive_float: ('NUMBER', r'[1-9][0-9]{0,4}(\.[0-9]+)?|0?\.0*[1-9][0-9]*'),
    options._seconds: ('NUMBER', r'0|[1-9][0-9]{0,4}(\.[0-9]+)?|0?\.0*[1-9][0-9]*'),
    options._size: ('TEXT', r'[1-9][0-9]{0,14} *([bB]|[kKmMgG][iI]?[bB])?'),
    options._names: ('TEXT', r'[^,\s][^,]*(,[^,]+)*'),
    options.thumbnail_count: ('NUMBER', r'1?[0-9]{1,2}|200'),
}
_BY_NAME = {
    'accelerator': ('TEXT', r'[a-z][a-z0-9-]*'),
    'input': ('TEXT', rf'{_SOURCE}(\n{_SOURCE})*\s*'),
    'output': ('GCS_WRITE_FOLDER', _GCS),
    'model_sha256': ('TEXT', r'[0-9a-f]{64}'),
    'run_id': ('TEXT', RUN_ID.pattern),
    's3_endpoint_url': ('TEXT', options._ENDPOINT.pattern),
    'since': ('TEXT', r'[0-9]{1,6}[mhdw]|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.+Z-]+)?'),
}
_REQUIRED = ('input', 'output')
_SPELLED = {'id': 'ID', 'gpu': 'GPU', 'uri': 'URI', 'url': 'URL', 's3': 'S3', 'sha256': 'SHA-256'}
_SPELLED |= {'jit': 'JIT', 'sec': '(seconds)'}


def label_parser() -> argparse.ArgumentParser:
    """That of `lemmabeam label`; what it refuses raises."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    label.add_arguments(parser)
    return parser


def template_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that a template has, too."""
    return [action for action in parser._actions if action.dest not in LAUNCHER_ONLY]


def metadata() -> dict[str, Any]:
    """What `gcloud dataflow flex-template build --metadata-file` takes."""
    parser = label_parser()
    groups = {
        id(action): group.title
        for group in parser._action_groups
        for action in group._group_actions
    }
    return {
        'name': 'Lemmabeam',
        'description': 'Labels every image in a bucket, and writes Parquet files.',
        'parameters': [
            _parameter(action, groups[id(action)]) for action in template_options(parser)
        ],
    }


def _parameter(action: argparse.Action, group: str | None) -> dict[str, Any]:
    kind, regex = _kind(action)
    text = (action.help or '') % vars(action)
    if isinstance(action, argparse._AppendAction):
        text = text.replace('may be repeated', 'several stand on a line each')
    parameter = {
        'name': action.dest,
        'label': _label(action.dest),
        'helpText': f'{text[0].upper()}{text[1:]}.',
        'isOptional': action.dest not in _REQUIRED,
        'groupName': group,
        'paramType': kind,
    }
    if regex:
        parameter['regexes'] = [f'^({regex})$']
    if kind == 'ENUM':
        parameter['enumOptions'] = [{'value': value, 'label': value} for value in action.choices]
    default = _text(action.default)
    if default:
        parameter['defaultValue'] = default
    return parameter


def _kind(action: argparse.Action) -> tuple[str, str | None]:
    if action.nargs == 0:
        return 'BOOLEAN', 'true|false'
    if action.choices:
        return 'ENUM', '|'.join(action.choices)
    if action.dest in _BY_NAME:
        return _BY_NAME[action.dest]
    return _BY_TYPE[action.type] if action.type else ('TEXT', None)


def _label(name: str) -> str:
    text = ' '.join(_SPELLED.get(word, word) for word in name.split('_'))
    return f'{text[0].upper()}{text[1:]}'


def _text(default: Any) -> str:
    match default:
        case None | ():
            return ''
        case bool():
            return str(default).lower()
        case float():
            return f'{default:g}'
    return str(default)


def as_json() -> str:
    """The text of the file."""
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    METADATA.write_text(as_json())
