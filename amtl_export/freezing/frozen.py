"""`freeze`: every embedding table of a model becomes a table of constants."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from amtl_export.data.output_names import logit_names, output_names
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary
from amtl_export.errors import InputError
from amtl_export.files import real
from amtl_export.freezing.compressed import Compressed
from amtl_export.freezing.copying import copy_reads_itself, frozen_copy
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.freezing.fields import (
    RunData,
    method_fields,
    row_counts,
    run_inputs,
    table_counts,
    table_field,
)
from amtl_export.freezing.flat import Flat, answers, example_outputs
from amtl_export.freezing.labelled import BesideOf, RawRows, beside_rows, labelled_rows, raw_rows
from amtl_export.freezing.reads import tables_read
from amtl_export.freezing.swap import freeze_module, frozen_tables, tables_of, unwrapped
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding
from amtl_export.models.attach import is_attached
from amtl_export.models.config import ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.source.binding import DynamicShapes, bind, describe
from amtl_export.source.call import ModuleCall, RunCall
from amtl_export.source.source import Labelled, Source, absolute, build, is_factory
from amtl_export.spec import Feed, TensorSpec
from amtl_export.stages import stage
from amtl_export.traffic.draw import draw
from amtl_export.training.run import Run, load_run

#: Where the embedding table is in a `CtrModel`, itself or below; a wide part has a second one, of D = 1.
EMBEDDING = "embedding"

#: Rows of the example of a run's model.
_EXAMPLE_ROWS = 1000


@dataclass(frozen=True)
class FrozenModel:
    """A model whose embeddings are constants: what is exported.

    Attributes:
        module: frozen, in evaluation mode.
        trained: the model as it was given, its selection networks in place: what a bundle is proven against; None
            where it is not at hand.
        inputs: what the model takes.
        outputs: names of what it gives.
        fields: of the tables.
        example: inputs that it takes, at least two rows.
        scores: the outputs that labels judge, one for each label; the first is the main one.
        origin: where it comes from, for reports: run or module, method, backbone, seed, data.
        counts: table → int64 `[V]`, how often training saw each row, for tables where that is known.
        unread: tables that the model has and its forward does not read; they are not exported.
        read_whole: tables that the model reads whole, for a tied output layer for instance.
        data: what only a run knows.
        labelled: examples with known outcome, by split; None where there are none.
        raw: rows of the test split as the run's data had them; None of a module.
        beside: their groups and weights; None for examples that come without.
        compressed: of a model whose tables were cut in principal order, what it was before.
        source: the folder or the factory that it was opened from; None for one that a program holds.
    """

    module: Flat
    trained: Flat | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    fields: tuple[FieldRows, ...]
    example: Feed
    scores: tuple[str, ...]
    origin: dict[str, Any]
    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    read_whole: frozenset[str] = frozenset()
    data: RunData | None = None
    labelled: Labelled | None = None
    raw: RawRows | None = None
    beside: BesideOf | None = None
    compressed: Compressed | None = None
    source: str | None = None

    @property
    def tables(self) -> dict[str, FrozenEmbedding]:
        """Path in the model → frozen table, of those that are read."""
        tables = frozen_tables(self.module.model)
        return {path: table for path, table in tables.items() if path not in self.unread}

    @property
    def score(self) -> str:
        """The main one of `scores`."""
        return self.scores[0]

    @property
    def weighted(self) -> bool:
        """Whether the labelled examples have weights."""
        return self.beside is not None and self.data is not None and self.data.schema.weight is not None

    @property
    def table_path(self) -> str:
        """Path of the main table: a run's embedding table, a user's largest."""
        tables = self.tables
        if self.data is not None:
            return next(path for path in tables if path.split(".")[0] == EMBEDDING)
        return max(tables, key=lambda path: tables[path].rows.numel())

    @property
    def table(self) -> FrozenEmbedding:
        """The main table."""
        return self.tables[self.table_path]

    @property
    def projection_bytes(self) -> int:
        """Of what else stands between table and backbone: mde's projections."""
        if self.data is None:
            return 0
        return sum(p.numel() * p.element_size() for p in self.ctr.embedding.parameters())

    @property
    def projections(self) -> frozenset[str]:
        """Names of the weights that bring stored rows to what the model reads: mde's, and bases."""
        model = self.module.model
        names = {f"{name}.bases" for name, part in model.named_modules() if isinstance(part, CodedEmbedding)}
        if self.data is not None:
            names |= {f"{EMBEDDING}.{name}" for name, _ in self.ctr.embedding.named_parameters()}
        return frozenset(names)

    @property
    def coded(self) -> dict[str, CodedEmbedding]:
        """Path → table, of those whose rows are written in another basis."""
        parts = self.module.model.modules()
        owners = {id(part.coded): part for part in parts if isinstance(part, CodedEmbedding)}
        return {path: owners[id(table)] for path, table in self.tables.items() if id(table) in owners}

    def dim(self, path: str) -> int:
        """D of a table: floats that the model reads for an id."""
        coded = self.coded.get(path)
        return int(self.tables[path].rows.shape[1] if coded is None else coded.bases.shape[2])

    @property
    def ctr(self) -> CtrModel:
        """The model of a run, frozen."""
        assert isinstance(self.module.model, CtrModel)
        return self.module.model

    @property
    def run_data(self) -> RunData:
        """What only a run knows.

        Raises:
            InputError: the model is a user's module.
        """
        if self.data is None:
            raise InputError("a user's module has no schema and no vocabularies", found=self.origin.get("run"))
        return self.data

    @property
    def config(self) -> ModelConfig:
        """What a run's model was built from."""
        return self.run_data.config

    @property
    def schema(self) -> Schema:
        """What a run's columns mean."""
        return self.run_data.schema

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Embedded field of a run → vocabulary."""
        return self.run_data.vocabularies

    @property
    def dense_bytes(self) -> int:
        """Of all tables, dense."""
        return sum(4 * len(table.rows) * self.dim(path) for path, table in self.tables.items())

    @property
    def vocabulary_hash(self) -> str | None:
        """Over all vocabularies; None without."""
        return None if self.data is None else self.data.vocabulary_hash

    def field_dims(self, name: str) -> Tensor:
        """int64 `[V]`, dims of every id of a field."""
        rows = next(own for own in self.fields if own.name == name)
        return self.tables[rows.table].dims[rows.offset : rows.offset + rows.size]

    def field_counts(self, rows: FieldRows) -> npt.NDArray[np.int64] | None:
        """int64 `[V]`, how often training saw every id of a field; None where that is not known."""
        if self.data is not None:
            return self.data.vocabularies[rows.name].counts
        counts = self.counts.get(rows.table)
        return None if counts is None else counts[rows.offset : rows.offset + rows.size]

    def with_tables(self, tables: Mapping[str, nn.Module]) -> FrozenModel:
        """The model with other tables, by their paths; the rest is shared with nobody."""
        own = frozen_tables(self.module.model)
        memo: dict[int, Any] = {id(own[path]): table for path, table in tables.items()}
        return self.with_model(copy.deepcopy(self.module.model, memo))

    def with_model(self, model: nn.Module) -> FrozenModel:
        """The same with another frozen module in it."""
        return replace(self, module=Flat(model, self.module.call))

    def answers(self, feed: Feed) -> Feed:
        """What the frozen module answers in PyTorch."""
        return answers(self.module, feed, self.inputs, self.outputs)

    def trained_answers(self, feed: Feed) -> Feed:
        """What the model as it was given answers in PyTorch."""
        return answers(self.trained or self.module, feed, self.inputs, self.outputs)


def freeze(
    source: FrozenModel | Run | Source | nn.Module | str | Path,
    *,
    example: Any = None,
    outputs: Sequence[str] | None = None,
    dynamic_shapes: DynamicShapes | None = None,
) -> FrozenModel:
    """Freeze a model: dims of every id become constants, the selection networks are gone.

    Args:
        source: a run; any `nn.Module`; a `Source`; a path of a run or of a frozen folder; `my_model.py:build`.
        example: of a module: what its forward takes, at least two rows; a mapping of forward's parameters to values, or
            a tuple. Values are tensors or arrays, nested in dicts, lists, tuples and dataclasses as forward has them.
        outputs: of a module: names of what it gives.
        dynamic_shapes: of a module: input → axis → name of a dimension that may change, beside the batch.

    Raises:
        InputError: the source cannot be opened, the example does not fit, something is given that only goes with a
            module, or the module cannot be frozen.
    """
    given = {"example": example, "outputs": outputs, "dynamic_shapes": dynamic_shapes}
    if not isinstance(source, nn.Module) and (extra := [name for name, value in given.items() if value is not None]):
        raise InputError(
            f"freeze: {', '.join(extra)} goes with a module",
            found=type(source).__name__,
            fix="a run knows its own; a Source and a factory's Source have them as attributes",
        )
    if isinstance(source, FrozenModel):
        return source
    stage(f"opening {source}" if isinstance(source, (str, Path)) else "freezing the model")
    if isinstance(source, Run):
        return _of_run(source)
    if isinstance(source, (str, Path)):
        return _opened(str(source))
    if isinstance(source, nn.Module):
        if example is None:
            raise InputError("freeze: a module needs an example", fix="freeze(module, example={…what forward takes…})")
        source = Source(source, example, outputs, dynamic_shapes)
    if not isinstance(source, Source):
        raise InputError("freeze: no model", found=type(source).__name__, allowed="a run, a module, a Source or a path")
    return of_module(source, type(source.module).__name__)


def _opened(source: str) -> FrozenModel:
    """The model that a path or a factory's name stands for."""
    from amtl_export.freezing.folder import is_frozen, load_frozen

    if is_factory(source) and not Path(source).exists():
        return replace(of_module(build(source), source, shared=True), source=absolute(source))
    path = Path(source)
    if path.suffix == ".py" and not path.is_dir():
        raise InputError(
            "the name of the function that gives the model is missing",
            where=source,
            fix=f"{source}:FUNCTION, such as {source}:build",
        )
    if (path / "signature.json").is_file():
        raise InputError(
            "a bundle is no source: it is what a model was exported to",
            where=path,
            fix="give the run, or the factory of a user's module: my_model.py:build",
        )
    return load_frozen(path) if is_frozen(path) else _of_run(load_run(path), shared=True)


def of_trained(
    model: CtrModel,
    config: ModelConfig,
    schema: Schema,
    vocabularies: dict[str, Vocabulary],
    origin: dict[str, Any],
    *,
    shared: bool = False,
) -> FrozenModel:
    """A `CtrModel` frozen.

    Args:
        model: trained.
        config: what it was built from.
        schema: what the columns mean.
        vocabularies: embedded field → vocabulary.
        origin: for reports.
        shared: whether constants may lie in the memory of the model's weights, which nobody changes then.
    """
    frozen, call = freeze_module(model, shared=shared), RunCall(config)
    path = next(path for path in frozen_tables(frozen) if path.split(".")[0] == EMBEDDING)
    offsets = frozen_tables(frozen)[path].offsets
    fields = tuple(
        FieldRows(own.name, path, offset, own.size, own.governed, own.padding)
        for own, offset in zip(config.embedded, offsets, strict=True)
    )
    data = RunData(config, schema, vocabularies)
    example = draw(config, vocabularies, _EXAMPLE_ROWS, np.random.default_rng(0))
    return FrozenModel(
        module=Flat(frozen, call),
        trained=Flat(model, call),
        inputs=run_inputs(config),
        outputs=output_names(config.labels),
        fields=fields,
        example=example,
        scores=logit_names(config.labels),
        origin=origin,
        counts={path: row_counts(fields, vocabularies, len(frozen_tables(frozen)[path].dims))},
        data=data,
    )


def _of_run(run: Run, *, shared: bool = False) -> FrozenModel:
    origin = {
        "run": run.path.name,
        "method": run.model_config.method,
        "backbone": run.model_config.backbone,
        "seed": run.train.seed,
        "data": Path(run.train.data).name,  # a bundle travels: no path of the machine that trained it
    }
    frozen = of_trained(run.model, run.model_config, run.schema, run.vocabularies, origin, shared=shared)
    labelled, beside, raw = partial(labelled_rows, run), partial(beside_rows, run), partial(raw_rows, run)
    return replace(frozen, labelled=labelled, beside=beside, raw=raw, source=str(real(run.path)))


def of_module(source: Source, name: str, *, shared: bool = False) -> FrozenModel:
    """A user's module frozen.

    Args:
        source: the module, and how it is called.
        name: for reports.
        shared: whether constants may lie in the memory of the module's weights, which nobody changes then.

    Raises:
        InputError: the example does not fit, or the module cannot be frozen.
    """
    trained = unwrapped(source.module)
    binding = bind(trained, source.example)
    inputs = describe(binding, source.dynamic_shapes)
    frozen = frozen_copy(trained, shared=shared)
    outputs = example_outputs(trained, binding, source.outputs)
    call = ModuleCall(binding)
    tables = tables_of(trained)
    flat = Flat(frozen, call)
    counts = table_counts(trained, tables, source.counts or {})
    attached = {table.path: is_attached(trained.get_submodule(table.path)) for table in tables}
    with copy_reads_itself(trained):
        looked_up, whole = tables_read(frozen_tables(frozen), lambda: answers(flat, binding.feed, inputs, outputs))
    if both := sorted(set(outputs) & {spec.name for spec in inputs}):
        raise InputError("an output is called as an input is", found=", ".join(both), fix="outputs=[…] names them")
    if unknown := [name for name in source.scores or () if name not in outputs]:
        raise InputError("score: no such output", found=", ".join(unknown), allowed=", ".join(outputs))
    scores = source.scores or outputs[:1]
    return FrozenModel(
        module=flat,
        trained=Flat(trained, call),
        inputs=inputs,
        outputs=outputs,
        fields=(
            *(table_field(t.path, trained, frozen_tables(frozen)[t.path], attached[t.path]) for t in tables),
            *method_fields({p: t for p, t in frozen_tables(frozen).items() if p not in attached}),
        ),
        example=binding.feed,
        scores=scores,
        origin={
            "run": Path(name).name,
            "method": "amtl" if any(attached.values()) else "fbe",
            "backbone": type(trained).__name__,
            "seed": None,
            "data": None,
        },
        counts=counts,
        unread=tuple(sorted(set(frozen_tables(frozen)) - looked_up - whole)),
        read_whole=frozenset(whole),
        labelled=source.labelled(inputs, scores),
    )
