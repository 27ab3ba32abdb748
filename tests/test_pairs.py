"""Every method with every backbone: trained, frozen, exported and validated through the same functions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.freezing.folder import load_frozen, save_frozen
from amtl_export.freezing.frozen import freeze
from amtl_export.models.config import WIDE
from amtl_export.models.ctr import BACKBONES, METHODS
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.validate import validate

DATA = "synthetic:rows=2000,values=80,tags=6,history=3"


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_pair(tmp_path: Path, method: str, backbone: str, tiny_train: Callable[..., TrainConfig]) -> None:
    budget = 0.4 if method in ("mde", "cut") else None  # else too few values to have narrow rows
    config = tiny_train(data=DATA, method=method, backbone=backbone, dim=8, epochs=1, dim_budget=budget)
    run = train(config, tmp_path / "run")
    frozen = freeze(run)
    bundle = export(frozen, tmp_path / "bundle", ExportConfig(layout="blocks" if method == "mde" else "paged"))
    verdict = validate(bundle.path, run.path)
    assert verdict.problems == []
    tables = 2 if backbone in WIDE else 1
    assert verdict.rows_checked == tables * sum(run.model.method.sizes)
    assert {site.table for site in bundle.signature.lookups} == set(frozen.tables)
    assert len(frozen.tables) == tables


@pytest.mark.parametrize("backbone", sorted(WIDE))
def test_two_tables_share_one_guard_and_survive_their_folder(
    tmp_path: Path, backbone: str, tiny_train: Callable[..., TrainConfig]
) -> None:
    run = train(tiny_train(data=DATA, backbone=backbone, epochs=1), tmp_path / "run")
    save_frozen(freeze(run), tmp_path / "frozen")
    bundle = export(load_frozen(tmp_path / "frozen"), tmp_path / "bundle", ExportConfig(layout="paged"))
    ops = bundle.report()["ops"]
    assert ops["GreaterOrEqual"] == 3  # one for ids, one for tags, one for history
    assert ops["Gather"] == 3 * 2 + 3  # paged embedding, dense wide part
    assert validate(bundle.path, run.path).problems == []


def test_warm_start_takes_the_wide_part_too(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    first = train(tiny_train(data=DATA, method="fbe", backbone="deepfm", epochs=1), tmp_path / "first")
    config = tiny_train(data=DATA, backbone="deepfm", epochs=1, lr=1e-12, warm_start=str(first.path))
    second = train(config, tmp_path / "second")
    name = "wide.ids.table.weight"
    assert second.model.get_parameter(name).allclose(first.model.get_parameter(name), atol=1e-6)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_run_from_principal_order_exports(
    tmp_path: Path, backbone: str, tiny_train: Callable[..., TrainConfig]
) -> None:
    """The basis is in the first layer, shared, or a projection of the graph, whichever the backbone needs."""
    fbe = train(tiny_train(data=DATA, method="fbe", backbone=backbone, dim=8, epochs=1), tmp_path / "fbe")
    config = tiny_train(data=DATA, backbone=backbone, dim=8, epochs=1, dim_budget=0.4, warm_start=str(fbe.path))
    run = train(config, tmp_path / "run")
    bundle = export(freeze(run), tmp_path / "bundle", ExportConfig(layout="paged"))
    verdict = validate(bundle.path, run.path)
    assert verdict.problems == []
    assert verdict.rows_bit_equal == verdict.rows_checked
