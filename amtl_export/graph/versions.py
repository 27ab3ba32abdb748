"""The versions of ONNX that graphs are written in."""

OPSET = 20
IR_VERSION = 10
