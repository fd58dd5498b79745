"""BiT: ResNet-v2 with group normalization and weight standardization."""
