"""A real Triton Inference Server, from the nvidia-pytriton wheel, for tests, benchmarks and trials on this machine.

python benchmarks/triton_server install .triton
python benchmarks/triton_server serve .triton MODELS [options of tritonserver]
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The wheel brings the server and its Python backend; models need ONNX Runtime, and this server NumPy 1.
PACKAGES = ("nvidia-pytriton==0.7.0", "onnxruntime>=1.30", "numpy<2")


def install(folder: Path) -> None:
    """Put an interpreter with ONNX Runtime, the server and its Python backend into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES[1:]], check=True)
    subprocess.run([*pip, "--no-deps", PACKAGES[0]], check=True)  # what else it wants is for its own Python interface
    here = _site(folder) / "pytriton" / "tritonserver"
    shutil.copytree(here / "backends", folder / "backends")
    stub = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    shutil.copyfile(here / stub, folder / "backends" / "python" / "triton_python_backend_stub")
    for program in (folder / "backends" / "python" / "triton_python_backend_stub", here / "bin" / "tritonserver"):
        program.chmod(0o755)
    (folder / "installed").touch()


def _site(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def command(folder: Path, repository: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """How the server is started, on loopback alone: program with arguments, environment."""
    folder = folder.resolve()
    libraries = [sysconfig.get_config_var("LIBDIR"), str(_site(folder) / "nvidia_pytriton.libs")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
    }
    environment.pop("PYTHONPATH", None)
    program = _site(folder) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    own = {"http-address": "127.0.0.1", "grpc-address": "127.0.0.1", "allow-metrics": "false"}
    own |= {"model-repository": str(repository.resolve()), "backend-directory": str(folder / "backends")}
    return [str(program), *(f"--{name}={value}" for name, value in own.items()), *options], environment


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Server:
    """A running server."""

    def __init__(self, folder: Path, repository: Path, log: Path, *options: str, patience_s: float = 0.1) -> None:
        self.log, self._patience_s = log, patience_s
        self.http, self.grpc = free_ports(2)
        ports = (f"--http-port={self.http}", f"--grpc-port={self.grpc}")
        self._command, self._environment = command(folder, repository, *ports, *options)
        self.start()

    def start(self) -> None:
        """Start, and wait until all models are ready."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(int(60 / self._patience_s)):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.log.read_text()[-4000:]}")
            if self.ready():
                return
            time.sleep(self._patience_s)
        raise RuntimeError(f"the server is not ready after a minute:\n{self.log.read_text()[-4000:]}")

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and the processes of its models."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@contextmanager
def serving(folder: Path, repository: Path, log: Path, *options: str, patience_s: float = 0.1) -> Iterator[Server]:
    """A server while the block runs; it is asked every `patience_s` whether it is ready."""
    server = Server(folder, repository, log, *options, patience_s=patience_s)
    try:
        yield server
    finally:
        server.stop()


def post(server: Any, body: bytes, path: str = "/v2/models/ctr/infer") -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer of what listens on `server.http`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=120)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if text else {}


def tensors(kind: Any, feed: Mapping[str, Any], **how: bool) -> list[Any]:
    """A request's inputs, of tritonclient's module for HTTP or gRPC."""
    types = {"i": "INT64", "f": "FP32", "O": "BYTES"}
    made = [kind.InferInput(name, values.shape, types[values.dtype.kind]) for name, values in feed.items()]
    for tensor, values in zip(made, feed.values(), strict=True):
        tensor.set_data_from_numpy(values, **how)
    return made
