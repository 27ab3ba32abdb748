"""A Ray cluster that work is given to: reached, or started here; left, or ended, when the work is done."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amtl_export.errors import AmtlError, EnvironmentLacks, InputError
from amtl_export.extras import install
from amtl_export.runtime.cores import usable_cores
from amtl_export.stages import stage

#: The address that starts a cluster here and ends it.
LOCAL = "local"

#: What goes through Ray is names of files and a few numbers.
_STORE_BYTES = 100 << 20

#: What `ray.init` sets in the environment of this process for the cluster that it starts.
_SET_BY_RAY = ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")

#: How often a piece of work is given out again whose worker died.
RETRIES = 3


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster while the block runs.

    Signals stay handled as they were: Ray takes SIGTERM for itself. A process that has started a cluster wants tokens
    from then on (Ray 2.60), so it cannot work with a cluster that has none afterwards.

    Args:
        address: as `ray.init` takes it; `local` starts one here, of the cores that this process may use. `auto` is the
            connection that this process has already, if it has one.

    Raises:
        EnvironmentLacks: Ray is not installed, or cannot be reached or started.
        InputError: this process is connected already, and `address` is not `auto`.
    """
    try:
        import ray
    except ImportError:
        raise EnvironmentLacks("Ray is not installed", fix=install("ray")) from None
    if ray.is_initialized():
        if address != "auto":
            raise InputError(
                "this process is connected to Ray already",
                found=f"ray={address!r}",
                allowed="ray='auto'",
                fix="say that, or leave it by ray.shutdown() first",
            )
        yield ray
        return
    environment = {name: os.environ.get(name) for name in _SET_BY_RAY}
    try:
        stage("starting Ray" if address == "local" else f"joining the Ray cluster {address}")
        _connect(ray, address)
        yield ray
    finally:
        ray.shutdown()
        _restore(environment)


def _restore(environment: Mapping[str, str | None]) -> None:
    """Processes that are started later are none of the cluster's."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it is our cluster, and reports to nobody
        options |= {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address, **options)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise EnvironmentLacks(
            "no Ray cluster can be reached" if address != LOCAL else "Ray cannot be started here",
            where=address,
            found=str(error).strip().splitlines()[0],
            fix="give the address that `ray start` printed, and set RAY_AUTH_MODE=token where it wants a token; or "
            "say ray='local' for a cluster of this machine alone",
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray would try for a quarter of an hour."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()


def room(ray: Any, cores: int) -> int:
    """How many pieces of work of so many cores the cluster's machines have room for at a time, as it is now."""
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return sum(int(node.get("CPU", 0)) // cores for node in nodes)


@contextmanager
def shared(folder: Path) -> Iterator[Path]:
    """A file of its own in a folder, for `check_shared`; gone after the block, so that work left over ends too."""
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def check_shared(mark: Path) -> None:
    """On a worker: refuse to work where the output folder is another one, of the worker's own machine.

    Raises:
        EnvironmentLacks: the mark is not there.
    """
    if not mark.is_file():
        raise not_shared("the output folder", mark.parent)


def not_shared(what: str, where: Path | str) -> EnvironmentLacks:
    """What a worker says that does not find what the caller has."""
    return EnvironmentLacks(
        f"a worker does not find {what}",
        where=where,
        found=f"nothing there on {socket.gethostname()}",
        fix="give paths of a file system that all machines of the cluster have",
    )


def said(error: Exception) -> Exception:
    """What an error of Ray means for the user; the worker's own error where it raised one.

    Args:
        error: of `ray.get`.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, AmtlError):
        return cause
    text = str(error)
    if "No module named" in text:
        lacking = text.rpartition("No module named")[2].splitlines()[0].strip()
        return EnvironmentLacks(
            "a worker lacks a module",
            found=lacking,
            fix="install the same amtl-export, with the same extras and ray, on every machine of the cluster",
        )
    if cause is None:
        return EnvironmentLacks(
            "workers of the cluster died again and again",
            found=text.strip().splitlines()[0],
            allowed=f"{RETRIES} times for one piece of work",
            fix="is their memory short? Then fewer at a time; the same call goes on with what is finished",
        )
    return error
