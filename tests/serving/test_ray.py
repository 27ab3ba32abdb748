"""Ray Serve with two replicas on this machine answers as the bundle does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from triton_server import free_ports, post

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.runtime.predictor import load
from amtl_export.serving.open_inference import metadata
from amtl_export.serving.ray_serve import app
from amtl_export.spec import DATATYPES, Feed


@dataclass
class Ray:
    """A running `serve run`."""

    http: int
    process: subprocess.Popen[bytes]
    log: Path

    def replicas(self) -> list[psutil.Process]:
        found = [p for p in psutil.Process(self.process.pid).children(recursive=True) if p.is_running()]
        return [p for p in found if p.name().startswith("ray::ServeRepl") and p.status() != psutil.STATUS_ZOMBIE]

    def ready(self, replicas: int) -> bool:
        """Whether so many are there, and one says that it is ready."""
        try:
            return len(self.replicas()) == replicas and post(self, b"", "/v2/health/ready")[0] == 200
        except (OSError, ValueError, psutil.NoSuchProcess):
            return False

    def wait(self, replicas: int) -> None:
        for _ in range(300):
            if self.process.poll() is not None:
                break
            if self.ready(replicas):
                return
            time.sleep(0.2)
        raise AssertionError(self.log.read_text()[-4000:])


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory, served_bundle: Bundle) -> Iterator[Ray]:
    folder = tmp_path_factory.mktemp("ray")
    (port,) = free_ports(1)
    application = {
        "name": "ctr",
        "route_prefix": "/",
        "import_path": "amtl_export.serving.ray_serve:app",
        "args": {"bundle": str(served_bundle.path), "name": "ctr", "replicas": 2},
    }
    options = {"host": "127.0.0.1", "port": port}
    (folder / "serve.yaml").write_text(yaml.safe_dump({"http_options": options, "applications": [application]}))
    short = Path(tempfile.mkdtemp(prefix="ray"))  # names of sockets have 107 bytes at most
    own = {"RAY_TMPDIR": str(short), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    log = folder / "log"
    with log.open("wb") as output:
        command = [str(Path(sys.executable).parent / "serve"), "run", str(folder / "serve.yaml")]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | own, start_new_session=True)
    running = Ray(port, process, log)
    try:
        running.wait(2)
        yield running
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        for own_process in family:
            if own_process.is_running():
                own_process.kill()
        shutil.rmtree(short, ignore_errors=True)


def as_request(feed: Feed) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": n, "shape": list(v.shape), "datatype": DATATYPES[str(v.dtype)], "data": v.ravel().tolist()}
            for n, v in feed.items()
        ]
    }


def test_all_scores_are_the_bundles(ray: Ray, served_bundle: Bundle, requests: list[Feed]) -> None:
    predictor = load(served_bundle.path)
    bodies = [json.dumps(as_request(feed)).encode() for feed in requests]
    expected = [predictor.predict(feed)["logit"] for feed in requests]

    def ask(number: int) -> float:
        which = number % len(requests)
        status, found = post(ray, bodies[which])
        assert status == 200, found
        logit = np.array(found["outputs"][0]["data"], dtype=np.float32)
        return float(np.abs(logit - expected[which]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(200))) == 0
    assert post(ray, b"", "/v2/models/ctr")[1] == metadata("ctr", predictor)


def test_replicas_share_the_tables(ray: Ray, served_bundle: Bundle) -> None:
    """Both map the file; no page of it is a process's own copy."""
    replicas = ray.replicas()
    assert len(replicas) == 2
    request = (served_bundle.path / "samples" / "request.json").read_bytes()

    def sizes(kind: str) -> list[int]:
        file = str(served_bundle.path / "model.onnx.data")
        maps = [[m for m in replica.memory_maps(grouped=False) if m.path == file] for replica in replicas]
        return [sum(getattr(m, kind) for m in own) for own in maps]

    for _ in range(500):  # a replica that was not asked yet has read nothing
        if min(sizes("rss")) > 0:
            break
        assert post(ray, request)[0] == 200
    assert min(sizes("rss")) > 0
    assert sizes("private_dirty") == [0, 0]


def test_the_packaged_client_agrees(ray: Ray, repository: Path) -> None:
    words = [sys.executable, str(repository / "ctr" / "client.py"), f"http://127.0.0.1:{ray.http}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_replica_comes_back(ray: Ray, served_bundle: Bundle) -> None:
    request = (served_bundle.path / "samples" / "request.json").read_bytes()
    expected = read_json(served_bundle.path / "samples" / "response.json")["outputs"]
    victim = ray.replicas()[0]
    victim.kill()
    victim.wait(30)
    for _ in range(100):
        if ray.ready(2) and victim.pid not in {p.pid for p in ray.replicas()}:
            break
        time.sleep(0.3)
    for _ in range(10):
        status, found = post(ray, request)
        assert status == 200, found
        assert found["outputs"] == expected
    assert ray.ready(2)


def test_wrong_requests_get_their_status(ray: Ray) -> None:
    assert post(ray, b"{")[0] == 400
    status, found = post(ray, b"{}", "/v2/models/nobody/infer")
    assert status == 404
    assert re.search("/v2/models/ctr/infer", found["error"])


def test_settings_that_cannot_be_used(tmp_path: Path, served_bundle: Bundle) -> None:
    for settings, says in (
        ({"bundle": str(served_bundle.path), "replicas": "0"}, "replicas"),
        ({"bundle": str(served_bundle.path), "replica": "2"}, "replica"),
        ({}, "bundle"),
        ({"bundle": str(tmp_path)}, "no such bundle"),
    ):
        with pytest.raises(InputError, match=says):
            app(settings)
    code = (
        "import sys; sys.modules['ray'] = None\nfrom amtl_export.serving.ray_serve import app\n"
        f"try: app({{'bundle': {str(served_bundle.path)!r}}})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("EnvironmentLacks"), done.stderr
    assert "amtl-export[ray]" in done.stdout
