"""What the files of an output look like."""
