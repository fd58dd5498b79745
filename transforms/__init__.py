"""Steps of the labelling pipeline: pure functions, and one composite PTransform a step."""
