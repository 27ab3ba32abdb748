"""`package`: a bundle as a version of a model in a Triton model repository; it appears whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import amtl_export
from amtl_export.bundle.samples import read_test_data, write_messages
from amtl_export.errors import InputError, ValidationFailed, os_errors
from amtl_export.files import copy_folder, made_by, read_json, whole_folder, write_json, wrong_sums
from amtl_export.native import needed_library
from amtl_export.runtime.predictor import Arrays, Predictor, load
from amtl_export.serving.kserve import MOUNT, inference_service
from amtl_export.serving.triton_config import Backend, Device, ServerConfig, WarmUp, model_config

#: Parts of this package that a version carries for the Python backend: what `runtime.predictor` imports.
TRAVELS = (
    "__init__.py", "errors.py", "files.py", "native/__init__.py",
    "runtime/__init__.py", "runtime/predictor.py", "runtime/session.py",
)  # fmt: skip

_PACKAGE = Path(amtl_export.__file__).parent
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MARK, _KIND, _LIBRARY = "config.json", "triton-model", "amtl_ort.so"


@dataclass(frozen=True)
class PackageConfig:
    """How servers run the model; see `triton_config.ServerConfig`.

    Attributes:
        backend: of `config.pbtxt`; the other one is under `configs/`.
        max_batch: rows of one run at most.
        queue_us: how long the batcher waits for more requests, µs.
        instances: that answer at the same time.
        threads: of each instance.
        mounted_at: where the server will see the model repository, for the native library's path; None: where it is, or
            where KServe puts it.
        storage_uri: where KServe will fetch the model repository; then `kserve.yaml` is written.
    """

    backend: Backend = "onnxruntime"
    max_batch: int = 4096
    queue_us: int = 0
    instances: int = 1
    threads: int = 1
    mounted_at: str | None = None
    storage_uri: str | None = None

    @property
    def seen_at(self) -> str | None:
        """Where the server sees the model repository, if that is known."""
        return self.mounted_at or (MOUNT if self.storage_uri else None)


@dataclass(frozen=True)
class Packaged:
    """A version of a model, as it was written.

    Attributes:
        model: folder of the model in the repository.
        version: number of the version's folder.
    """

    model: Path
    version: int

    @property
    def path(self) -> Path:
        """The version's folder."""
        return self.model / str(self.version)


def package(bundle: Path, repository: Path, name: str, config: PackageConfig | None = None) -> Packaged:
    """Add a bundle to a model repository: as a new model, or as the next version of one that was packaged before.

    Args:
        bundle: from `export` or `export_module`; its checksums and its sample's answers must hold.
        repository: Triton's model repository, made if it is not there.
        name: of the model.
        config: how servers run it.

    Raises:
        InputError: the bundle is spoilt; the name cannot be a folder's; the model that is there takes other inputs, was
            packaged with other settings, or was not made by this tool.
        ValidationFailed: the bundle does not answer its sample as it did when it was exported.
        EnvironmentLacks: tritonclient or the native library is missing; no disk space; no permission.
    """
    config = config or PackageConfig()
    if not _NAME.fullmatch(name):
        raise InputError("a model cannot have this name", found=repr(name), allowed="letters, digits, _ . -")
    if wrong := wrong_sums(bundle):
        raise InputError("files of the bundle changed", where=bundle, found=", ".join(wrong), fix="export it again")
    opened = load(bundle)
    sample = _answered(bundle, opened)
    model = repository / name
    at = (config.seen_at or str(repository.resolve())).rstrip("/")
    parts = _Parts(bundle, opened, config, sample, f"{at}/{name}/lib/{_LIBRARY}")
    configs = parts.configs(name)
    if not model.exists():
        with whole_folder(model) as draft:
            parts.write_model(draft, configs)
            parts.write_version(draft / "1")
        return Packaged(model, 1)
    _check_alike(model, configs)
    version = 1 + max((int(p.name) for p in model.iterdir() if p.name.isdecimal()), default=0)
    with whole_folder(model / str(version)) as draft:
        parts.write_version(draft)
    return Packaged(model, version)


def _answered(bundle: Path, opened: Predictor) -> Arrays:
    """The bundle's sample request, once its answers are found to be those that were written down."""
    sample = read_test_data(bundle, "input")
    answers = opened.predict(sample)
    for name, expected in read_test_data(bundle, "output").items():
        if not np.allclose(answers[name], expected, rtol=1e-5, atol=1e-6):
            raise ValidationFailed(
                "the bundle does not answer its sample as it did when it was exported",
                where=f"{bundle}, output {name}",
                found=f"difference {float(np.abs(answers[name] - expected).max()):.3g}",
                fix="amtl-export validate BUNDLE --run RUN says more",
            )
    return sample


@dataclass(frozen=True)
class _Parts:
    """What a model's folder is made of.

    Attributes:
        library: the native library's file, as the server sees it.
    """

    bundle: Path
    opened: Predictor
    config: PackageConfig
    sample: Arrays
    library: str

    @property
    def max_batch(self) -> int:
        """0 where inputs are given once per request: their first dimension is another than the candidates'."""
        return 0 if any(spec.shape[0] == 1 for spec in self.opened.inputs) else self.config.max_batch

    def configs(self, name: str) -> dict[str, str]:
        """File → text: `config.pbtxt`, and all variants, for `tritonserver --model-config-name`; `kserve.yaml`."""
        main = self.config.backend
        other: Backend = "python" if main == "onnxruntime" else "onnxruntime"
        own = self._config(name, main, "cpu")
        return {
            "config.pbtxt": own,
            "configs/cpu.pbtxt": own,
            "configs/gpu.pbtxt": self._config(name, main, "gpu"),
            f"configs/{other}.pbtxt": self._config(name, other, "cpu"),
        } | ({"kserve.yaml": inference_service(name, self.config.storage_uri)} if self.config.storage_uri else {})

    def _config(self, name: str, backend: Backend, device: Device) -> str:
        library = self.library if self.opened.native_operators and device == "cpu" else None
        config = self.config
        server = ServerConfig(
            backend, device, self.max_batch, config.queue_us, config.instances, config.threads, library
        )
        return model_config(name, self.opened, server, [warm_up for warm_up, _ in self._warm_up()])

    def _warm_up(self) -> list[tuple[WarmUp, Arrays]]:
        """A row of the sample request at each of three batch sizes; the whole request where nothing is batched."""
        if not self.max_batch:
            files = {name: (f"sample.{name}", values.shape) for name, values in self.sample.items()}
            return [(WarmUp("sample", 1, files), self.sample)]
        found = []
        for row, size in enumerate(sorted({1, min(64, self.max_batch), self.max_batch})):
            arrays = {name: values[row % len(values)] for name, values in self.sample.items()}
            files = {name: (f"row_{row}.{name}", values.shape or (1,)) for name, values in arrays.items()}
            found.append((WarmUp(f"batch_{size}", size, files), arrays))
        return found

    def write_model(self, folder: Path, configs: Mapping[str, str]) -> None:
        """All but the version: configurations, warm-up files, samples with a client, native library, and a mark."""
        for name in ("configs", "warmup"):
            (folder / name).mkdir()
        for file, text in configs.items():
            (folder / file).write_text(text, encoding="utf-8")
        for warm_up, arrays in self._warm_up():
            for name, (file, _) in warm_up.files.items():
                (folder / "warmup" / file).write_bytes(np.ascontiguousarray(arrays[name]).tobytes())
        self._write_samples(folder)
        if self.opened.native_operators:
            (folder / "lib").mkdir()
            shutil.copyfile(needed_library(), folder / "lib" / _LIBRARY)
        write_json(folder / _MARK, {"made_by": made_by(), "kind": _KIND})

    def _write_samples(self, folder: Path) -> None:
        """A request and its response as JSON, and a client that sends it; JSON knows no NaN, so 0 stands for one."""
        request = {name: np.nan_to_num(values) for name, values in self.sample.items()}
        answers = self.opened.predict(request)
        if self.max_batch:
            request, answers = ({n: v.reshape(len(v), -1) for n, v in own.items()} for own in (request, answers))
        write_messages(folder / "samples", request, answers)
        shutil.copyfile(_PACKAGE / "serving" / "triton_client.py", folder / "client.py")

    def write_version(self, folder: Path) -> None:
        """A version: the bundle for both backends, `model.py` and what it imports for the Python backend."""
        with os_errors("copying the bundle", folder):
            folder.mkdir(exist_ok=True)
            copy_folder(self.bundle, folder / "model.onnx")
            shutil.copyfile(_PACKAGE / "serving" / "triton_model.py", folder / "model.py")
            for name in TRAVELS:
                target = folder / "amtl_export" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_PACKAGE / name, target)
            if self.opened.native_operators:
                shutil.copyfile(needed_library(), folder / "amtl_export" / "native" / _LIBRARY)


def _check_alike(model: Path, configs: Mapping[str, str]) -> None:
    """A new version must fit the configuration that is there."""
    if not (model / _MARK).is_file() or read_json(model / _MARK).get("kind") != _KIND:
        raise InputError(
            "the model's folder was not made by this tool", where=model, fix="choose another --name, or move it away"
        )
    for file, text in configs.items():
        there = (model / file).read_text(encoding="utf-8") if (model / file).is_file() else ""
        if there != text:
            other = next((line for line in text.splitlines() if line not in there.splitlines()), text)
            raise InputError(
                "the model that is there is configured otherwise, and its versions share the configuration",
                where=model / file,
                found=f"no {other.strip()}",
                fix="give the same options and a bundle of the same inputs, or choose another --name",
            )
