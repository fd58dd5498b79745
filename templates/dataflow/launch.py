"""What the launcher of a Flex Template runs: see pipeline.flex_template.

Nothing is defined here, because Beam pickles the main module of a Dataflow job for its workers.
"""

from pipeline.flex_template import launch

launch()
