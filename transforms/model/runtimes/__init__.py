"""What computes a network: TensorFlow, JAX or ONNX Runtime, behind one interface."""
