"""One process that has imported everything and drawn one graph: what is attacked runs in forks of it."""

from __future__ import annotations

import gc
import importlib
import multiprocessing.connection as pipes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import tqdm  # type: ignore[import-untyped]  # it has no types
from torch import nn

import amtl_export.runtime.apart as apart_module
from amtl_export.graph.onnx_exporter import exporter
from amtl_export.graph.versions import OPSET

#: What commands import.
_IMPORTED = (
    *("cli.train", "cli.compress", "cli.freeze", "cli.export", "cli.validate", "cli.bench_infer", "cli.package"),
    *("cli.inspect", "cli.experiment", "cli.report", "cli.score", "cli.compare", "cli.terminal", "cli.bench_server"),
    *("validation.validate", "bench.infer", "serving.package", "report.inspection", "report.tables", "report.plots"),
    *("compression.compress", "training.loop", "experiments.run", "report.html", "scoring.score", "compare"),
)


def warm() -> None:
    """Import and draw; no thread may be left, since a fork has none but its own.

    Raises:
        RuntimeError: one is left.
    """
    torch.set_num_threads(1)
    for name in _IMPORTED:
        try:
            importlib.import_module(f"amtl_export.{name}")
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("amtl_export."):
                raise
    for name in ("onnxruntime", "matplotlib.backends.backend_agg", "matplotlib.figure", "rich.markdown"):
        importlib.import_module(name)
    tqdm.tqdm.monitor_interval = 0  # torch's bars, whose thread none could fork with
    layer = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 1)).eval()
    with exporter():  # whose table of operators forks have then
        torch.onnx.export(layer, (torch.zeros(2, dtype=torch.int64),), opset_version=OPSET, dynamo=True, verbose=False)
    if threading.active_count() > 1:
        raise RuntimeError(f"threads are left: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # forks share the pages


class Nursery:
    """Forks this process whenever a command wants a graph run apart: it would start an interpreter for it.

    The commands' processes may have threads by then, so that they cannot fork themselves.
    """

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "nursery")
        self._listener = pipes.Listener(self._address, "AF_UNIX", backlog=64)
        Path(self._address).chmod(0o777)  # some commands are of another user
        self._process = os.fork()
        if self._process == 0:
            self._serve()
        apart_module._run = self._run

    def _run(self, model: Path, folder: Path, first: int, last: int, optimized: int) -> str:
        """What `amtl_export.runtime.apart` does of its own with an interpreter."""
        with pipes.Client(self._address, "AF_UNIX") as line:
            line.send((str(model.absolute()), str(folder), str(first), str(last), str(optimized)))
            if not line.poll(apart_module._SECONDS):
                return f"no answer within {apart_module._SECONDS} s"
            return f"ends the process (exit code {line.recv()})"

    def _serve(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while os.getppid() != 1:
            line = self._listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _born(line)
            line.close()
        os._exit(0)

    def close(self) -> None:
        """End it."""
        self._listener.close()
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)


def _born(line: pipes.Connection) -> None:
    """Run one graph in a fork of this fork, and say how that ended."""
    words = line.recv()
    if (child := os.fork()) == 0:
        code = 1
        try:
            quiet = os.open(os.devnull, os.O_RDWR)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            apart_module.main(*words)
            code = 0
        finally:
            os._exit(code)
    ends = time.monotonic() + apart_module._SECONDS
    ended: int | None = None
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.003)
    if ended is None:
        os.kill(child, signal.SIGKILL)
    try:
        line.send(ended)
    finally:
        sys.stdout.flush()
        os._exit(0)
