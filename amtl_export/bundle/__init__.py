"""The bundle: an ONNX model with all that is needed to serve, check and trust it."""
