import subprocess
import sys

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
