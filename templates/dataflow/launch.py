"""What the launcher of a Flex Template runs: see pipeline.flex.

Nothing is defined here, because Beam pickles the main module of a Dataflow job for its workers.
"""

from pipeline.flex import launch

launch()
