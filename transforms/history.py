"""The step that reads what earlier runs did with each image; see `transforms.runs.history`."""

from collections.abc import Iterator, Sequence

import apache_beam as beam

from transforms.core.elements import Known
from transforms.core.long_texts import LONG_TEXTS
from transforms.output.history_file import HistoryFile
from transforms.output.layout import Layout
from transforms.runs.history import read_history


class _ReadDoFn(beam.DoFn):
    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, file: HistoryFile) -> Iterator[tuple[str, Known]]:
        for uri, known in read_history(file, self._layout):
            carried = LONG_TEXTS.shorten(known.carried)
            yield uri, known if carried is known.carried else known._replace(carried=carried)


class ReadHistory(beam.PTransform):
    """What earlier runs did with which URI: a PCollection[tuple[str, Known]].

    Args:
      files: see `history_files`.
      layout: the output.
    """

    def __init__(self, files: Sequence[HistoryFile], layout: Layout):
        super().__init__()
        self._files = files
        self._layout = layout

    def expand(self, root: beam.Pipeline) -> beam.PCollection[tuple[str, Known]]:
        return (
            root
            | 'Files' >> beam.Create(list(self._files))
            | 'Read' >> beam.ParDo(_ReadDoFn(self._layout)).with_output_types(tuple[str, Known])
        )
