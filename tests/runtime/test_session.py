import os
import subprocess
import sys
from pathlib import Path

import pytest

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.runtime.session import nodes_by_provider, onnxruntime, open_session


def test_a_missing_provider_is_an_error_never_the_cpu(paged_bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime().get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(EnvironmentLacks, match=r"amtl-export\[gpu\]"):
        open_session(paged_bundle.model, provider="cuda")


def test_nodes_are_counted_by_provider(paged_bundle: Bundle) -> None:
    session = open_session(paged_bundle.model, record_assignment=True)
    assert list(nodes_by_provider(session)) == ["CPUExecutionProvider"]


def test_what_is_no_model_is_named(tmp_path: object) -> None:
    with pytest.raises(InputError, match="cannot load the model"):
        open_session(b"not a model")


def test_without_onnxruntime_the_fix_is_named() -> None:
    """In a process where the import really fails."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from amtl_export.runtime.session import onnxruntime\n"
        "from amtl_export.errors import EnvironmentLacks\n"
        "try:\n    onnxruntime()\n"
        "except EnvironmentLacks as e:\n    assert 'amtl-export[cpu]' in str(e) and e.exit_code == 4\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_program_may_have_onnx_runtime_write_nothing(tmp_path: Path) -> None:
    """In a process of its own: what a session of somebody else's writes on an error is there, or not, as is what it
    says of a home folder that it cannot write, and leaves in that of temporary files.
    """
    program = """
import sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from amtl_export.runtime.session import onnxruntime, quiet
if sys.argv[1] == "quiet":
    quiet()
ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])
rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", 2])
table = numpy_helper.from_array(np.ones((3, 2), np.float32), "table")
graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], "g", [ids], [rows], [table])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
try:
    session.run(None, {"ids": np.array([7])})
except Exception as error:
    print(type(error).__name__)
"""
    written = {}
    for how in ("usual", "quiet"):
        (tmp_path / how).mkdir()
        env = os.environ | {"HOME": "/dev/null", "TMPDIR": str(tmp_path / how)}
        done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True, env=env)
        assert done.stdout.strip() == "InvalidArgument"
        written[how] = done.stderr
    assert "onnxruntime" in written["usual"]
    assert written["quiet"] == ""
    assert list((tmp_path / "quiet").iterdir()) == []
