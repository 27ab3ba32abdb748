"""`package`: a bundle as a version of a model in a Triton model repository; it appears whole or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from amtl_export.bundle.answers import check_answers, check_inputs
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.raw import key_count, raw_fields
from amtl_export.bundle.samples import read_test_data
from amtl_export.errors import InputError, os_errors
from amtl_export.files import checksum_mismatches, real, refuse_inside, refuse_overlap
from amtl_export.interruptions import undone_at_exit
from amtl_export.locks import locked
from amtl_export.runtime.predictor import Predictor, load
from amtl_export.serving.ensemble import Ensemble
from amtl_export.serving.kserve import MOUNT, inference_service
from amtl_export.serving.model_folder import LIBRARY, ModelFolder, Packaged
from amtl_export.serving.triton_config import Backend, ServerConfig
from amtl_export.stages import stage

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


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
        raw_features: the server takes values, and encodes them itself.
        graph_keys: values that the graph may hold for that; with more of them the
            encoder is a model of its own, `NAME_encoder`, and NAME an ensemble of it and `NAME_scorer`.
    """

    backend: Backend = "onnxruntime"
    max_batch: int = 4096
    queue_us: int = 0
    instances: int = 1
    threads: int = 1
    mounted_at: str | None = None
    storage_uri: str | None = None
    raw_features: bool = False
    graph_keys: int = 1_000_000

    @property
    def seen_at(self) -> str | None:
        """Where the server sees the model repository, if that is known."""
        return self.mounted_at or (MOUNT if self.storage_uri else None)


def package(bundle: Path | str, repository: Path | str, name: str, config: PackageConfig | None = None) -> Packaged:
    """Add a bundle to a model repository: as a new model, or as the next version of one that was packaged before.

    Args:
        bundle: from `export`; its checksums and its sample's answers must hold.
        repository: Triton's model repository, made if it is not there.
        name: of the model.
        config: how servers run it.

    Raises:
        InputError: the bundle is spoilt; the model's folder would lie in it, or in another folder of this tool, or hold
            it; the name cannot be a folder's; the model that is there takes other inputs, was
            packaged with other settings, or was not made by this tool; another process is packaging it.
        ValidationFailed: the bundle does not answer its sample as it did when it was exported.
        EnvironmentLacks: tritonclient or the native library is missing; no disk space; no permission.
    """
    bundle, repository = Path(bundle), Path(repository)
    config = config or PackageConfig()
    if not _NAME.fullmatch(name):
        raise InputError("a model cannot have this name", found=repr(name), allowed="letters, digits, _ . -")
    refuse_overlap(bundle, repository / name)
    refuse_inside(repository / name)
    source = _with_vocabularies(bundle)
    stage("taking checksums")
    if wrong := checksum_mismatches(bundle):
        raise InputError("files of the bundle changed", where=bundle, found=", ".join(wrong), fix="export it again")
    with os_errors("packaging", repository), locked(repository / name):
        return _packaged(bundle, source, repository, name, config)


def _packaged(bundle: Path, source: Bundle | None, repository: Path, name: str, config: PackageConfig) -> Packaged:
    service = {"kserve.yaml": inference_service(name, config.storage_uri)} if config.storage_uri else {}
    maker = _Maker(repository, config)
    stage("asking the bundle for its sample")
    check_answers(bundle)
    check_inputs(load(bundle), open_bundle(bundle).signature)
    if not config.raw_features:
        with ExitStack() as drafts:
            return maker.folder(bundle, name, source, files=service).add(drafts)
    if source is None:
        raise InputError(
            "raw_features=True: the bundle has no vocabularies", where=bundle, fix="leave raw_features=True out"
        )
    with ExitStack() as drafts:
        from amtl_export.bundle.raw_bundle import write_encoder_bundle, write_raw_bundle

        repository.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=repository)
        drafts.enter_context(undone_at_exit(folder.cleanup))
        scratch = Path(drafts.enter_context(folder))
        stage("making the encoder of raw values")
        if key_count(raw_fields(source)) <= config.graph_keys:
            write_raw_bundle(source, scratch)
            return maker.folder(scratch, name, None, files=service).add(drafts)
        write_encoder_bundle(source, scratch)
        scorer = maker.folder(bundle, f"{name}_scorer", source, versions=2)
        encoder = maker.folder(scratch, f"{name}_encoder", None, versions=2, batched=scorer.server.max_batch > 0)
        ensemble = Ensemble(repository / name, encoder, scorer, service)
        version = ensemble.add(drafts)
    ensemble.point_to_latest()
    return version


@dataclass(frozen=True)
class _Maker:
    """Makes folders of a repository's models."""

    repository: Path
    config: PackageConfig

    def folder(
        self,
        bundle: Path,
        name: str,
        vocabularies: Bundle | None,
        *,
        versions: int = 1,
        batched: bool = True,
        files: Mapping[str, str] | None = None,
    ) -> ModelFolder:
        """The folder of a bundle's model, once its sample is answered as it should be."""
        opened = load(bundle)
        batched &= _may_be_batched(bundle, opened)
        config = self.config
        at = (config.seen_at or str(real(self.repository))).rstrip("/")
        server = ServerConfig(
            config.backend,
            "cpu",
            config.max_batch if batched else 0,
            config.queue_us,
            config.instances,
            config.threads,
            f"{at}/{name}/lib/{LIBRARY}" if opened.native_operators else None,
            versions,
        )
        sample = read_test_data(bundle, "input")
        return ModelFolder(self.repository / name, bundle, opened, sample, server, vocabularies, files or {})


def _with_vocabularies(bundle: Path) -> Bundle | None:
    """The bundle, if it is of a run; those of users' modules have no vocabularies."""
    opened = open_bundle(bundle)
    return None if opened.schema is None else opened


def _may_be_batched(bundle: Path, opened: Predictor) -> bool:
    """Whether a server may answer several requests in one run.

    Every input and output has one row for each example, and examples alone are answered as together.
    """
    rows = all(spec.batched for spec in (*opened.inputs, *opened.outputs))
    file = bundle / "signature.json"
    return rows and (not file.is_file() or open_bundle(bundle).signature.batches.independent)
