"""One run, from its graph to its report."""
