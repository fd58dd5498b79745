"""Loading images, in processes beside the one that has the model; nothing here knows Beam."""
