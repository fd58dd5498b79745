"""From the parameters of a Dataflow Flex Template to the command line of `lemmabeam label`.

The launcher of Google runs `templates/dataflow/launch.py` with every parameter as `--name=value`,
and with options of Beam that it adds itself (project, region, job_name, template_location, …).
"""

import os
import sys
from typing import NoReturn

from pipeline.commands.template import command_line
from pipeline.main import console
from transforms.core.errors import UsageError


def launch() -> NoReturn:
    """Submits the job that the arguments of this process ask for, and ends the process."""
    try:
        argv = command_line(sys.argv[1:], os.environ)
    except UsageError as e:
        print(f'lemmabeam: {e}', file=sys.stderr)
        sys.exit(2)
    console(['label', *argv])
