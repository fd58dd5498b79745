"""templates/dataflow/metadata.json, made of the options of `lemmabeam label`.

python -m pipeline.commands.template_metadata        writes it anew, in a clone
"""

import json
from pathlib import Path
from typing import Any

from pipeline.flags import Option
from pipeline.options import OPTIONS

METADATA = Path(__file__).parents[2] / 'templates' / 'dataflow' / 'metadata.json'

_SPELLED = {'id': 'ID', 'gpu': 'GPU', 'uri': 'URI', 'url': 'URL', 's3': 'S3', 'sha256': 'SHA-256'}
_SPELLED |= {'jit': 'JIT', 'sec': '(seconds)'}


def as_json() -> str:
    """The text of the file."""
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + '\n'


def metadata() -> dict[str, Any]:
    """What `gcloud dataflow flex-template build --metadata-file` takes."""
    return {
        'name': 'Lemmabeam',
        'description': 'Labels every image in a bucket, and writes Parquet files.',
        'parameters': [_parameter(option) for option in OPTIONS if option.in_template],
    }


def _parameter(option: Option) -> dict[str, Any]:
    text = option.help
    if option.is_repeated:
        text = text.replace('may be repeated', 'several stand on a line each')
    parameter = {
        'name': option.name,
        'label': _label(option.name),
        'helpText': f'{text[0].upper()}{text[1:]}.',
        'isOptional': not option.is_required,
        # argparse has a group for what stands in none.
        'groupName': option.group or 'options',
        'paramType': option.type.parameter,
    }
    if option.type.regex:
        parameter['regexes'] = [f'^({option.type.regex})$']
    if option.type.choices:
        parameter['enumOptions'] = [
            {'value': value, 'label': value} for value in option.type.choices
        ]
    if option.default_text:
        parameter['defaultValue'] = option.default_text
    return parameter


def _label(name: str) -> str:
    text = ' '.join(_SPELLED.get(word, word) for word in name.split('_'))
    return f'{text[0].upper()}{text[1:]}'


if __name__ == '__main__':
    METADATA.write_text(as_json())
