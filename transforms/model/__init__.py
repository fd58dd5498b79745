"""What a model is, where it comes from, and how RunInference calls it."""
