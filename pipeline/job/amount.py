"""How much a run has to do, as `pipeline.runners.base.Amount` is asked for it."""

import itertools
from collections.abc import Sequence

from pipeline.config import RunConfig
from transforms.core.elements import Ref
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.sources.listing import list_input


class AmountOf:
    """The images of a run; its inputs are listed, and the reports of its output read."""

    def __init__(self, config: RunConfig):
        self._config = config

    def listed(self, enough: int) -> int:
        """See `Amount`."""
        listing = self._config.listing
        refs = (
            ref
            for source in listing.inputs
            for ref in list_input(source, listing.columns, listing.since)
            if isinstance(ref, Ref)
        )
        found = sum(1 for _ in itertools.islice(refs, enough))
        return found if listing.sample is None else min(found, listing.sample)

    def done(self) -> int:
        """Images of these inputs that complete runs of the model have dealt with."""
        config, layout = self._config, self._config.layout
        runs: Sequence[CompleteRun] = [
            run
            for run in complete_runs(layout.output, layout.store)
            if run.model_id == layout.model_id and run.report.inputs == config.inputs
        ]
        if config.command != 'label' or not runs:
            return 0
        counts = runs[-1].report.counts
        return counts.labeled + counts.unchanged
