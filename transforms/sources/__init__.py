"""What is labelled, and how it is listed."""
