"""Workshop: from a trained checkpoint to a bundle of ONNX graphs that is proved equivalent."""
