"""A real Triton with a packaged model: requests that nobody should send, many at once, ended stubs, a corrupt version.

Right answers are asked for before, during and after. What ends the server itself is Triton's own, and told of by name:
the package has no part in reading a request's body.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from triton_server import Server, post, serving

from amtl_export.files import read_json
from amtl_export.serving.package import PackageConfig, package
from attack.requests import REQUESTS, Raw
from attack.targets import Targets

#: Where `make triton` puts a server.
INSTALLED = Path(__file__).resolve().parents[2] / ".triton"

#: Connections that ask at once.
MANY = 1000

#: Until a server that lost its stub must answer again, seconds.
_PATIENCE_S = 60

_MODEL = "ctr"


def installed() -> bool:
    """Whether there is a server."""
    return (INSTALLED / "installed").is_file()


@dataclass
class Asked:
    """A model's own sample, and how often it was answered.

    Attributes:
        server: that is asked.
        request: JSON.
        expected: output → its numbers.
        counts: right, wrong, refused.
    """

    server: Server
    request: dict[str, Any]
    expected: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, server: Server, bundle: Path) -> Asked:
        """The sample of a bundle."""
        answer = read_json(bundle / "samples" / "response.json")
        expected = {own["name"]: np.float32(own["data"]) for own in answer["outputs"]}
        return cls(server, read_json(bundle / "samples" / "request.json"), expected)

    def once(self) -> str:
        """Ask, and count: `right`, `wrong`, or `refused` where there is no answer."""
        try:
            status, answer = post(self.server, json.dumps(self.request).encode())
            found = {own["name"]: np.float32(own["data"]) for own in answer["outputs"]} if status == 200 else None
        except (OSError, ValueError, LookupError):
            found = None
        told = "refused" if found is None else self._judged(found)
        self.counts[told] += 1
        return told

    def _judged(self, found: dict[str, Any]) -> str:
        """Rows of several requests may be in one matrix product: float32 roundings."""
        same = found.keys() == self.expected.keys()
        near = same and all(np.allclose(found[name], own, rtol=1e-5, atol=1e-6) for name, own in self.expected.items())
        return "right" if near else "wrong"


def attack(targets: Targets, folder: Path) -> dict[str, Any]:
    """Everything, one after the other; counts as JSON values."""
    bundle = targets.bundles.get("fused", targets.bundles["paged"])
    folder.mkdir(parents=True)
    package(bundle, folder / "models", _MODEL, PackageConfig(backend="python", max_batch=256))
    options = ("--model-control-mode=explicit", f"--load-model={_MODEL}")
    with serving(INSTALLED, folder / "models", folder / "log", *options) as server:
        asked = Asked.of(server, bundle)
        result: dict[str, Any] = {"requests": hostile(asked)}
        result["connections"] = many(asked, MANY)
        result["stubs"] = ended_stubs(asked)
        result["versions"] = corrupt_version(asked, folder / "models" / _MODEL)
    bad = [name for name, own in result.items() if own["wrong"] or own["not_right_after"]]
    return result | {"upstream": result["requests"].pop("ended_the_server"), "bad": bad}


def hostile(asked: Asked) -> dict[str, Any]:
    """Each request once; a right answer behind each."""
    answers, ended, after = {}, [], Counter[str]()
    for name, make in REQUESTS.items():
        answers[name] = answered(asked.server, make(asked.request))
        told = asked.once()
        if told == "refused" and _has_ended(asked.server):
            number = -int(asked.server.process.returncode)
            ended.append({"request": name, "signal": signal.Signals(number).name if number > 0 else number})
            asked.server.stop()
            asked.server.start()
            told = asked.once()
        after[told] += 1
    accepted = sorted(name for name, told in answers.items() if told == "status 200")
    return {
        "attempts": len(answers), "answers": dict(sorted(Counter(answers.values()).items())), "accepted": accepted,
        "right_after": after["right"], "not_right_after": after.total() - after["right"], "wrong": after["wrong"],
        "ended_the_server": ended,
    }  # fmt: skip


def _has_ended(server: Server) -> bool:
    """A process that a signal ends is there until its memory is written away."""
    try:
        server.process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def answered(server: Server, raw: Raw) -> str:
    """Send bytes; the status, or that there was none."""
    try:
        with socket.create_connection(("127.0.0.1", getattr(server, raw.port)), timeout=raw.seconds) as line:
            line.sendall(raw.data)
            if raw.ends:
                line.shutdown(socket.SHUT_WR)
            first = line.recv(4096)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    words = first.split(b" ", 2)
    return f"status {words[1].decode()}" if first.startswith(b"HTTP/") and len(words) > 1 else "closed"


def many(asked: Asked, count: int) -> dict[str, Any]:
    """Connections that are all open before the first one asks; half of them again, that ask nothing."""
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(high, max(low, 4 * count)), high))
    body = json.dumps(asked.request).encode()
    path = f"/v2/models/{_MODEL}/infer"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    address = ("127.0.0.1", asked.server.http)
    idle = [socket.create_connection(address, timeout=120) for _ in range(count // 2)]
    lines = [socket.create_connection(address, timeout=120) for _ in range(count)]
    for line in lines:
        line.sendall(head + body)
    told = Counter(asked._judged(_outputs(line)) for line in lines)
    for line in (*lines, *idle):
        line.close()
    after = asked.once()
    return {
        "attempts": count,
        "idle": len(idle),
        "right": told["right"],
        "wrong": told["wrong"],
        "not_right_after": int(after != "right"),
    }


def _outputs(line: socket.socket) -> dict[str, Any]:
    """The outputs in an answer that ends with its connection; none if it has none."""
    data = b""
    try:
        while part := line.recv(1 << 16):
            data += part
        return {own["name"]: np.float32(own["data"]) for own in json.loads(data.partition(b"\r\n\r\n")[2])["outputs"]}
    except (OSError, ValueError, LookupError):
        return {}


def stubs(server: Server) -> list[int]:
    """Processes in which the server runs models."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            name = (place / "cmdline").read_bytes().split(b"\0")[0]
            group = os.getpgid(int(place.name)) if b"triton_python_backend_stub" in name else None
        except (OSError, ValueError):
            continue
        if group == server.process.pid:
            found.append(int(place.name))
    return found


def ended_stubs(asked: Asked, times: int = 3) -> dict[str, Any]:
    """The model's process is killed while it is asked: no wrong answer, and right ones behind what helps.

    Triton's Python backend starts no other process by itself, and waits for ever for one killed within a request.
    """
    ended, ready, helped = 0, Counter[str](), Counter[str]()
    with asking(asked) as during:
        for _ in range(times):
            for process in stubs(asked.server):
                os.kill(process, signal.SIGKILL)
                ended += 1
            ready[_got(asked.server, f"/v2/models/{_MODEL}/ready")] += 1
            helped[_help(asked)] += 1
    return {
        "attempts": times, "ended": ended, "ready_says": dict(ready), "right_after": dict(helped),
        "during": dict(during), "wrong": during["wrong"], "not_right_after": helped["nothing"],
    }  # fmt: skip


def _help(asked: Asked) -> str:
    """What it takes until the model answers right again: loading it, or another server process."""
    _got(asked.server, f"/v2/repository/models/{_MODEL}/load", b"{}")
    body = json.dumps(asked.request).encode()
    if _got(asked.server, f"/v2/models/{_MODEL}/infer", body) == "status 200" and asked.once() == "right":
        return "loading the model"
    asked.server.stop(signal.SIGKILL)
    asked.server.start()
    return "starting the server" if asked.once() == "right" else "nothing"


def _got(server: Server, path: str, body: bytes | None = None) -> str:
    """The status of an answer that comes soon."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http}{path}", body, timeout=15) as answer:
            return f"status {answer.status}"
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except OSError:
        return "no answer"


def corrupt_version(asked: Asked, model: Path) -> dict[str, Any]:
    """New versions that cannot be loaded appear while the old one is asked: it stays."""
    refused, kinds = {}, sorted(_CORRUPT)
    with asking(asked) as during:
        for number, kind in enumerate(kinds, start=2):
            version = model / f"{number}"
            shutil.copytree(model / "1", version)
            _CORRUPT[kind](version)
            status, answer = post(asked.server, b"{}", f"/v2/repository/models/{_MODEL}/load")
            said = str(answer.get("error", "")).replace(str(model.parent), "").split("\n")[0]
            refused[kind] = f"status {status}: {said[:160]}"
            asked.once()
            shutil.rmtree(version)
    return {
        "attempts": len(kinds), "answers": refused, "during": dict(during),
        "wrong": during["wrong"], "not_right_after": int(asked.once() != "right"),
    }  # fmt: skip


def _file(version: Path, name: str) -> Path:
    """Triton's own folder of a model may be between."""
    return next(path for path in sorted(version.rglob(name)) if path.is_file())


def _cut(version: Path) -> None:
    os.truncate(_file(version, "model.onnx"), 1000)


def _no_weights(version: Path) -> None:
    _file(version, "model.onnx.data").unlink()


def _no_graph(version: Path) -> None:
    _file(version, "model.onnx").write_bytes(b"\xff" * 5000)


def _no_program(version: Path) -> None:
    (version / "model.py").write_text("import nothing_of_that_name\n")


#: How a version is spoilt → what does it.
_CORRUPT: dict[str, Callable[[Path], None]] = {
    "graph cut off": _cut, "weights missing": _no_weights, "graph of other bytes": _no_graph, "program": _no_program,
}  # fmt: skip


@contextmanager
def asking(asked: Asked) -> Iterator[Counter[str]]:
    """Ask all the time, in a thread; what came of it is counted in what is yielded, when the block is through."""
    own, told, over = Asked(asked.server, asked.request, asked.expected), Counter[str](), threading.Event()

    def ask() -> None:
        while not over.is_set():
            own.once()
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield told
    finally:
        over.set()
        thread.join()
        told.update(own.counts)
