"""Run by test_hostile_nodes.py: load each model of a folder and answer its request, a line for each.

python answer_nodes.py folder library
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

folder, library = Path(sys.argv[1]), sys.argv[2]
for model in sorted(folder.glob("*.onnx")):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.register_custom_ops_library(library)
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"ids": np.load(model.with_suffix(".npy"))})
        print(model.stem, "answered", list(found.shape), float(np.abs(found).sum()), flush=True)
    except Exception as error:
        print(model.stem, "refused", str(error).splitlines()[0], flush=True)
