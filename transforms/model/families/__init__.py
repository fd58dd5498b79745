"""Networks that are built from their weights."""
