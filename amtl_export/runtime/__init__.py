"""Running a bundle with ONNX Runtime; a provider that was asked for is there or it is an error."""
