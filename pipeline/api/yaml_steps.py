"""Our steps for Beam YAML, whose transforms name their outputs by a dict.

In a pipeline file:

    providers:
      - type: python
        transforms:
          LabelImages: pipeline.api.yaml_steps.LabelImages
          WriteLabels: lemmabeam.WriteLabels
"""

from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from pipeline.api import composite
from transforms.model.choices import EMBEDDED


class LabelImages(beam.PTransform):
    """Labels the images behind rows with a field 'uri'; other fields are carried along.

    Outputs: LabelImages.labels and LabelImages.dead_letters.  With `error_handling: {output: NAME}`
    the dead letters are LabelImages.NAME, and the labels are what the next transform of a chain
    takes.

    Args:
      model: as `lemmabeam.LabelImages`.
      top_k: likewise.
      error_handling: as other transforms of Beam YAML have it.
      options: as `lemmabeam.LabelImages`.
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        top_k: int | None = None,
        error_handling: Mapping[str, str] | None = None,
        **options: Any,
    ):
        super().__init__()
        self._labels, self._dead_letters = 'labels', 'dead_letters'
        if error_handling is not None:
            self._labels, self._dead_letters = 'good', error_handling['output']
        self._label_images = composite.LabelImages(model, top_k=top_k, **options)

    # No types: Beam would take the name of the result for that of its elements.
    def expand(self, rows: Any) -> Any:
        """See the class."""
        found = rows | 'LabelImages' >> self._label_images
        return {self._labels: found.labels, self._dead_letters: found.dead_letters}
