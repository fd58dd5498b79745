"""An output as its readers see it."""
