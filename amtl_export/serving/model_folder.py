"""A model's folder in a Triton model repository, and the versions in it; each appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import amtl_export
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.samples import write_messages
from amtl_export.errors import InputError, os_errors
from amtl_export.files import atomic_folder, copy_folder, producer, read_json, write_json
from amtl_export.native import LIBRARIES, library_path, needed_library
from amtl_export.runtime.predictor import Arrays, Predictor
from amtl_export.serving.triton_config import Backend, Device, ServerConfig, WarmUp, model_config
from amtl_export.serving.vendored import vendored
from amtl_export.stages import stage

_PACKAGE = Path(amtl_export.__file__).parent
#: Of the native operators, in a model's folder: for the CPU, and for CUDA.
LIBRARY, CUDA_LIBRARY = LIBRARIES["cpu"], LIBRARIES["cuda"]

#: What the mark of a model's folder says that it is.
MODEL = "triton-model"

_MARK = "config.json"


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


def write_mark(folder: Path, kind: str) -> None:
    """Say who made a model's folder, and what it is."""
    write_json(folder / _MARK, {"producer": producer(), "kind": kind})


def next_version(model: Path, configs: Mapping[str, str], kind: str) -> Packaged:
    """The version that a model gets next; 1 if there is no such model.

    Raises:
        InputError: the model that is there is configured otherwise, or was not made by this tool.
    """
    if not model.exists():
        return Packaged(model, 1)
    _check_alike(model, configs, kind)
    return Packaged(model, 1 + max((int(p.name) for p in model.iterdir() if p.name.isdecimal()), default=0))


def _check_alike(model: Path, configs: Mapping[str, str], kind: str) -> None:
    """A new version must fit the configuration that is there."""
    if not (model / _MARK).is_file():
        raise InputError(
            "the model's folder was not made by this tool", where=model, fix="choose another name, or move it away"
        )
    if (found := read_json(model / _MARK).get("kind")) != kind:
        raise InputError(
            "the model that is there is of another kind",
            where=model,
            found=found,
            allowed=kind,
            fix="give the same raw_features and graph_keys, or choose another name",
        )
    for file, text in configs.items():
        there = (model / file).read_text(encoding="utf-8") if (model / file).is_file() else ""
        if there != text:
            other = next((line for line in text.splitlines() if line not in there.splitlines()), text)
            raise InputError(
                "the model that is there is configured otherwise, and its versions share the configuration",
                where=model / file,
                found=f"no {other.strip()}",
                fix="give the same options and a bundle of the same inputs, or choose another name",
            )


def write_client(folder: Path, request: Arrays, answers: Arrays, *, batched: bool) -> None:
    """Write `samples/`, a request and its response as JSON, and a client that sends it."""
    if batched:
        rows = [{n: v.reshape(len(v), *(v.shape[1:] or (1,))) for n, v in own.items()} for own in (request, answers)]
        request, answers = rows
    write_messages(folder / "samples", request, answers)
    shutil.copyfile(_PACKAGE / "serving" / "triton_client.py", folder / "client.py")


@dataclass(frozen=True)
class ModelFolder:
    """What a model's folder is made of.

    Attributes:
        model: the folder.
        bundle: `model.onnx`, its data and samples.
        opened: the bundle.
        sample: its sample request.
        server: how servers run it, on the CPU; `library` is the native operators' file as the server sees it, and the
            one for CUDA lies beside it if it was built.
        vocabularies: the bundle again, if clients encode values for it; else None.
        files: further files of the model's folder → their text.
    """

    model: Path
    bundle: Path
    opened: Predictor
    sample: Arrays
    server: ServerConfig
    vocabularies: Bundle | None
    files: Mapping[str, str]

    def add(self, drafts: ExitStack) -> Packaged:
        """Make the folder with version 1, or add the next version; it appears when `drafts` is left without an error.

        Raises:
            InputError: the model that is there takes other inputs, was packaged with other settings, or was not made
                by this tool.
            EnvironmentLacks: no disk space; no permission.
        """
        configs = self._configs()
        version = next_version(self.model, configs, MODEL)
        draft = drafts.enter_context(atomic_folder(version.model if version.version == 1 else version.path))
        if version.version == 1:
            self._write_model(draft, configs)
            draft = draft / "1"
        self._write_version(draft)
        return version

    def _configs(self) -> dict[str, str]:
        """File → text: `config.pbtxt`, and all variants, for `tritonserver --model-config-name`."""
        main = self.server.backend
        other: Backend = "python" if main == "onnxruntime" else "onnxruntime"
        own = self._config(main, "cpu")
        return {
            "config.pbtxt": own,
            "configs/cpu.pbtxt": own,
            "configs/gpu.pbtxt": self._config(main, "gpu"),
            f"configs/{other}.pbtxt": self._config(other, "cpu"),
        } | dict(self.files)

    def _config(self, backend: Backend, device: Device) -> str:
        library = self.server.library
        if library and device == "gpu":
            library = f"{library.rpartition('/')[0]}/{CUDA_LIBRARY}" if library_path("cuda") else None
        server = replace(self.server, backend=backend, device=device, library=library)
        return model_config(self.model.name, self.opened, server, [warm_up for warm_up, _ in self._warm_up()])

    def _warm_up(self) -> list[tuple[WarmUp, Arrays]]:
        """A row of the sample request at each of three batch sizes; the whole request where nothing is batched."""
        if not self.server.max_batch:
            files = {name: (f"sample.{name}", values.shape) for name, values in self.sample.items()}
            return [(WarmUp("sample", 1, files), self.sample)]
        found = []
        for row, size in enumerate(sorted({1, min(64, self.server.max_batch), self.server.max_batch})):
            arrays = {name: values[row % len(values)] for name, values in self.sample.items()}
            files = {name: (f"row_{row}.{name}", values.shape or (1,)) for name, values in arrays.items()}
            found.append((WarmUp(f"batch_{size}", size, files), arrays))
        return found

    def _write_model(self, folder: Path, configs: Mapping[str, str]) -> None:
        """All but the version; JSON knows no NaN, so 0 stands for one in the samples."""
        for name in ("configs", "warmup"):
            (folder / name).mkdir()
        for file, text in configs.items():
            (folder / file).write_text(text, encoding="utf-8")
        for warm_up, arrays in self._warm_up():
            for name, (file, _) in warm_up.files.items():
                (folder / "warmup" / file).write_bytes(_as_bytes(arrays[name]))
        request = {n: np.nan_to_num(v) if v.dtype.kind == "f" else v for n, v in self.sample.items()}
        write_client(folder, request, self.opened.predict(request), batched=self.server.max_batch > 0)
        if self.opened.native_operators:
            _copy_libraries(folder / "lib")
        write_mark(folder, MODEL)

    def _write_version(self, folder: Path) -> None:
        """A version: the bundle; `model.py` and what it imports, for the Python backend; `encoder/`."""
        with os_errors("copying the bundle", folder):
            folder.mkdir(exist_ok=True)
            stage(f"copying {self.bundle.name}")
            copy_folder(self.bundle, folder / "model.onnx")
            shutil.copyfile(_PACKAGE / "serving" / "triton_model.py", folder / "model.py")
            for name in vendored():
                target = folder / "amtl_export" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_PACKAGE / name, target)
            if self.opened.native_operators:
                _copy_libraries(folder / "amtl_export" / "native")
            if self.vocabularies is not None:
                stage("writing the encoder")
                write_encoder(self.vocabularies, folder / "encoder")


def _copy_libraries(folder: Path) -> None:
    """The native operators for the CPU, and for CUDA if they were built."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(needed_library(), folder / LIBRARY)
    if found := library_path("cuda"):
        shutil.copyfile(found, folder / CUDA_LIBRARY)


def _as_bytes(values: np.ndarray[Any, Any]) -> bytes:
    """As Triton reads them from a file: texts each with its length in front, four bytes."""
    if values.dtype != object:
        return np.ascontiguousarray(values).tobytes()
    texts = [str(value).encode() for value in np.atleast_1d(values).flat]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
