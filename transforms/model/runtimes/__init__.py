"""What computes a network: TensorFlow or JAX, behind one interface."""
