"""From a frozen PyTorch module to an ONNX graph: trace, then lower the lookups to a layout."""
