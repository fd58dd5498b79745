"""Beam's engines in Python, on this machine."""

import dataclasses

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipeline.messages import SILENT, Messages
from pipeline.options import LabelOptions
from pipeline.runners.base import Runner
from pipeline.runners.explain import Setting
from transforms.core.resources import cpu_count


class LocalRunner(Runner):
    """An engine in this process, or one that starts processes of this machine."""

    def __init__(self, options: PipelineOptions, messages: Messages = SILENT):
        super().__init__(options, messages)
        self.outlives_launcher = False
        mode = options.view_as(DirectOptions).direct_running_mode
        self.is_this_process = self.name == 'FnApiRunner' and mode in (None, 'in_memory')
        self.starts_workers = mode == 'multi_processing'

    def defaults(self, args: LabelOptions) -> tuple[LabelOptions, list[Setting]]:
        """Where several processes of this machine work, they share its cores for their loaders."""
        if args.loader_processes is None and self.starts_workers:
            workers = self.options.view_as(DirectOptions).direct_num_workers or cpu_count()
            return dataclasses.replace(args, loader_processes=max(1, cpu_count() // workers)), []
        return args, []
