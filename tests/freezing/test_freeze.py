from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.folder import load_frozen, save_frozen
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.swap import freeze_module
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.report.inspection import inspect
from amtl_export.traffic.draw import draw
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run, load_run
from amtl_export.validation.validate import validate


def test_answers_as_the_model_with_its_selection_network(run: Run, frozen: FrozenModel) -> None:
    rows = run.rows("test")
    torch.testing.assert_close(
        torch.from_numpy(predict(frozen.ctr, rows)), torch.from_numpy(predict(run.model, rows)), rtol=0, atol=0
    )


def test_nothing_of_the_selection_network_is_left(run: Run, frozen: FrozenModel) -> None:
    assert any("selectors" in name for name, _ in run.model.named_parameters())
    assert not [name for name, _ in frozen.ctr.named_modules() if "selector" in name]
    assert set(frozen.ctr.state_dict()) - set(run.model.state_dict()) == {"embedding.rows", "embedding.dims"}


def test_rows_are_zero_past_dims_and_bit_equal_before(run: Run, frozen: FrozenModel) -> None:
    rows, dims = frozen.table.rows, frozen.table.dims
    kept = torch.arange(rows.shape[1]) < dims.unsqueeze(1)
    assert not bool(rows[~kept].any())
    weight = run.model.get_parameter("embedding.table.weight")
    assert torch.equal(rows[kept], weight[kept])
    governed = [f.governed for f in frozen.config.embedded]
    assert governed == [True, True, False, False]
    assert int(frozen.field_dims("segment").min()) == 12
    assert int(frozen.field_dims("tags")[-1]) == 0


def test_freezing_leaves_the_trained_model_alone(fresh_run: Run) -> None:
    before = {name: value.clone() for name, value in fresh_run.model.state_dict().items()}
    frozen = freeze(fresh_run)
    frozen.table.rows.zero_()
    assert all(torch.equal(value, before[name]) for name, value in fresh_run.model.state_dict().items())


def test_out_of_range_ids_read_the_out_of_vocabulary_row(frozen: FrozenModel) -> None:
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    ids = torch.tensor([[-1], [10**6], [2**62], [-(2**62)], [low], [high], [0]])
    for field in range(len(frozen.config.embedded)):
        answered = frozen.table.lookup(ids, (field,))
        assert torch.equal(answered, answered[-1:].expand_as(answered))


class Halves(nn.Module):
    """Somebody else's method: takes part by the protocol alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))
        self.sizes, self.offsets = (4, 2), (0, 4)

    def frozen_rows(self) -> Tensor:
        return self.weight * (torch.arange(4) < 2)

    def frozen_dims(self) -> Tensor:
        return torch.full((6,), 2)


def test_any_module_with_rows_and_dims_takes_part() -> None:
    model = nn.ModuleDict({"mine": Halves(), "rest": nn.Linear(4, 1)})
    table = freeze_module(model).get_submodule("mine")
    assert isinstance(table, FrozenEmbedding)
    assert torch.equal(table.rows[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert isinstance(model["mine"], Halves)


def test_rows_that_contradict_dims_are_refused() -> None:
    broken = Halves()
    broken.frozen_dims = lambda: torch.ones(6, dtype=torch.int64)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="row 0 is not zero past its 1 dims"):
        freeze_module(nn.ModuleDict({"mine": broken}))


def test_zeros_past_dims_are_plus_zero() -> None:
    """A mask that multiplies leaves -0; no layout could store that in the zeros that all rows share."""
    minus = torch.tensor([[1.0, -0.0], [-0.0, -0.0]])
    table = FrozenEmbedding(minus, torch.tensor([1, 0]), (2,), (0,))
    assert table.rows.view(torch.int32).tolist() == [[0x3F800000, 0], [0, 0]]


def test_a_table_is_the_rows_only_where_that_was_said() -> None:
    rows, dims = torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([1, 2])
    assert FrozenEmbedding(rows, dims, (2,), (0,), shared=True).rows.data_ptr() == rows.data_ptr()
    assert FrozenEmbedding(rows, dims, (2,), (0,)).rows.data_ptr() != rows.data_ptr()
    rows[0, 1] = -0.0
    table = FrozenEmbedding(rows, dims, (2,), (0,), shared=True)
    assert not table.rows.signbit().any()
    assert rows[0, 1].signbit(), "what is shared is not changed"


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_a_frozen_run_does_not_follow_its_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """Whether the run's tensors are its file, mapped, or copies."""
    monkeypatch.setattr("amtl_export.training.tensors._MAPPED", large)
    file = run.path / "model.safetensors"
    before, opened = file.read_bytes(), load_run(run.path)
    frozen, by_path = freeze(opened), freeze(run.path)
    expected = {name: answer.copy() for name, answer in by_path.answers(by_path.example).items()}
    with torch.no_grad():
        for parameter in opened.model.parameters():
            parameter.fill_(7.0)
    for model in (frozen, by_path):
        found = model.answers(by_path.example)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    save_frozen(frozen, tmp_path / "frozen")
    again = load_frozen(tmp_path / "frozen").answers(by_path.example)
    assert all(np.array_equal(again[name], expected[name]) for name in expected)
    assert file.read_bytes() == before


@pytest.mark.parametrize("given", [{"example": 0}, {"outputs": ["logit"]}, {"dynamic_shapes": {}}], ids=str)
def test_what_a_run_would_not_heed_is_refused(run: Run, frozen: FrozenModel, given: Any) -> None:
    for source in (run, run.path, frozen):
        with pytest.raises(InputError, match=f"{next(iter(given))} goes with a module"):
            freeze(source, **given)


def test_a_model_without_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no embedding table"):
        export(freeze(nn.Linear(2, 2), example=torch.zeros(3, 2)), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "dims", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "3 rows and 2 dims"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 3]), r"within 0\.\.2, got 0\.\.3"),
        (torch.ones(3, 2), torch.tensor([2, 1, 2]), "row 1 is not zero past its 1 dims"),
    ],
)
def test_a_table_checks_itself(rows: Tensor, dims: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FrozenEmbedding(rows, dims, (3,), (0,))


def test_survives_its_folder(tmp_path: Path, frozen: FrozenModel, run: Run) -> None:
    save_frozen(frozen, tmp_path / "frozen")
    loaded = load_frozen(tmp_path / "frozen")
    assert torch.equal(loaded.table.rows, frozen.table.rows)
    assert torch.equal(loaded.table.dims, frozen.table.dims)
    assert loaded.origin == frozen.origin
    rows = run.rows("test")
    assert (predict(loaded.ctr, rows) == predict(frozen.ctr, rows)).all()


def test_a_corrupted_frozen_model_is_named(tmp_path: Path, frozen: FrozenModel) -> None:
    save_frozen(frozen, tmp_path / "frozen")
    file = tmp_path / "frozen" / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"frozen\.safetensors"):
        load_frozen(tmp_path / "frozen")


def test_a_projected_table_is_stored_in_blocks_or_folded(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig]
) -> None:
    run = train(tiny_train(method="mde", dim_budget=0.4, epochs=1), tmp_path / "run")
    frozen = freeze(run)
    folded = fold(frozen)
    assert frozen.projection_bytes > 0
    assert folded.projection_bytes == 0
    assert set(folded.tables) == {"embedding"}
    feed = draw(frozen.config, frozen.vocabularies, 200, np.random.default_rng(0))
    np.testing.assert_allclose(folded.answers(feed)["logit"], frozen.answers(feed)["logit"], atol=1e-5)
    in_blocks = export(frozen, tmp_path / "blocks")
    dense = export(folded, tmp_path / "dense", ExportConfig(layout="dense"))
    assert in_blocks.signature.layout == "blocks"
    assert in_blocks.signature.table_bytes < dense.signature.table_bytes
    assert inspect(in_blocks.path).bytes_table == in_blocks.signature.table_bytes
    values = validate(in_blocks.path, run.path).to_json()
    assert values["problems"] == []
    # The graph's few bounds and padding sizes are counted there, too.
    assert 0 <= values["bytes_table"] - in_blocks.signature.table_bytes < 2000
    rows = len(frozen.table.dims)
    arrays = onnx.load(str(in_blocks.model), load_external_data=False).graph.initializer
    assert not [a.name for a in arrays if list(a.dims) == [rows, frozen.config.dim]]  # no full-D table
