"""From a trained click-through model with adaptive embedding sizes to a small, fast, proven ONNX file."""
