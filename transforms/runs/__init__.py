"""The runs of an output: in progress, complete, and who may write."""
