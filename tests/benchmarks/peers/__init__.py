"""Other tools at the same job: `python -m tests.benchmarks.peers`, or `make bench-peers`.

`scripts` holds what a user of each tool would write; it knows nothing of this project.
"""
