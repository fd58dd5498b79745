"""`python -m pipeline` is the console script."""

from pipeline.main import console

console()
