"""Run by test_versions.py in another ONNX Runtime: answer a request with a bundle, with the native library or without.

python answer.py model.onnx request.npz answers.npz [library]
"""

import sys

import numpy as np
import onnxruntime as ort

model, request, answers, *library = sys.argv[1:]
options = ort.SessionOptions()
for path in library:
    options.register_custom_ops_library(path)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with np.load(request) as feed:
    found = session.run(None, dict(feed))
np.savez(answers, **dict(zip((output.name for output in session.get_outputs()), found, strict=True)))
print(ort.__version__)
