"""Backbones against their papers' formulas, written out the long way."""

import pytest
import torch

from amtl_export.models.autoint import Interaction
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField
from amtl_export.models.ctr import CtrModel
from amtl_export.models.dcnv2 import DcnV2
from amtl_export.models.deepfm import pairwise_products
from amtl_export.models.din import AttentionUnit


def config(backbone: str) -> ModelConfig:
    fields = (EmbeddedField("user", 9), EmbeddedField("item", 7), EmbeddedField("tags", 5, padding=4))
    return ModelConfig(embedded=fields, numeric=(NumericField("age"),), dim=4, backbone=backbone, hidden=(6,))


def test_pairwise_products_are_all_pairs() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 6, 4)
    pairs = sum((rows[:, i] * rows[:, j]).sum(dim=1) for i in range(6) for j in range(i + 1, 6))
    assert isinstance(pairs, torch.Tensor)
    torch.testing.assert_close(pairwise_products(rows), pairs.unsqueeze(1))


def test_crosses_multiply_the_input() -> None:
    torch.manual_seed(0)
    model = DcnV2(config("dcnv2")).eval()
    rows, numeric = torch.randn(5, 3, 4), torch.randn(5, 1)
    x0 = torch.cat([rows.reshape(5, 12), numeric], dim=1)
    x = x0
    for cross in model.crosses:
        assert isinstance(cross, torch.nn.Linear)
        x = x0 * (x @ cross.weight.T + cross.bias) + x
    expected = model.out(torch.cat([x, model.deep(x0)], dim=1))
    torch.testing.assert_close(model(rows, numeric), expected)


def test_attention_mixes_fields_head_by_head() -> None:
    torch.manual_seed(0)
    layer = Interaction(4, heads=2, head_width=3)
    rows = torch.randn(5, 3, 4)
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        q, k, v = ((rows @ m.weight.T)[:, :, part] for m in (layer.query, layer.key, layer.value))
        heads.append(torch.softmax(q @ k.transpose(1, 2), dim=2) @ v)
    expected = torch.relu(torch.cat(heads, dim=2) + rows @ layer.residual.weight.T)
    torch.testing.assert_close(layer(rows), expected)


def test_the_wide_part_adds_a_weight_for_each_id_and_number() -> None:
    torch.manual_seed(0)
    made = config("widedeep")
    model = CtrModel(made, [torch.ones(f.size, dtype=torch.int64) for f in made.embedded]).eval()
    assert model.wide is not None
    assert model.wide.numeric is not None
    ids, numeric, tags = torch.tensor([[3, 2]]), torch.tensor([[0.5]]), torch.tensor([[1, 3, 4]])
    whole = model(ids, numeric, [tags])
    weight = model.get_parameter("wide.ids.table.weight")
    offsets = model.method.offsets
    linear = weight[3] + weight[offsets[1] + 2] + (weight[offsets[2] + 1] + weight[offsets[2] + 3]) / 2
    linear = linear + model.wide.numeric(torch.tensor([0.5]))
    model.wide = None
    torch.testing.assert_close(whole, model(ids, numeric, [tags]) + linear)


def test_an_attention_unit_weighs_what_is_present() -> None:
    torch.manual_seed(0)
    unit = AttentionUnit(4)
    rows, candidate = torch.randn(2, 3, 4), torch.randn(2, 4)
    present = torch.tensor([[True, True, False], [False, False, False]])
    pooled = unit(rows, candidate, present)
    e, c = rows[0], candidate[0]
    weights = [unit.weight(torch.cat([e[i], c, e[i] - c, e[i] * c])) for i in range(2)]
    torch.testing.assert_close(pooled[0], weights[0] * e[0] + weights[1] * e[1])
    assert not bool(pooled[1].any())
    assert unit(rows[:, :0], candidate, present[:, :0]).shape == (2, 4)


def sequence_model(backbone: str, method: str = "fbe") -> CtrModel:
    torch.manual_seed(0)
    fields = (EmbeddedField("user", 9), EmbeddedField("item", 7), EmbeddedField("seen", 7, padding=6, shares="item"))
    made = ModelConfig(embedded=fields, dim=4, backbone=backbone, hidden=(6,), method=method)
    return CtrModel(made, [torch.arange(f.size, 0, -1) for f in made.embedded])


def test_a_sequence_uses_the_rows_of_its_field() -> None:
    model = sequence_model("dnn")
    assert model.method.offsets == (0, 9, 9)
    assert model.get_parameter("embedding.table.weight").shape == (16, 4)
    same = torch.tensor([[3]])
    assert torch.equal(model.method.lookup(same, (1,)), model.method.lookup(same, (2,)))
    assert model.method.frozen_dims()[-1] == 0  # the item field has the padding row now


@pytest.mark.parametrize("method", ["amtl", "mde", "autoemb", "cut"])
def test_a_sequence_is_selected_by_its_fields_own_network(method: str) -> None:
    model = sequence_model("din", method).eval()
    ids = torch.arange(6).unsqueeze(1)
    assert torch.equal(model.method.lookup(ids, (1,)), model.method.lookup(ids, (2,)))
    assert not bool(model.method.lookup(torch.tensor([[6]]), (2,)).any())


def test_din_differs_from_dnn_by_attention_alone() -> None:
    din, dnn = sequence_model("din").eval(), sequence_model("dnn").eval()
    dnn.load_state_dict({k: v for k, v in din.state_dict().items() if not k.startswith("attention.")})
    ids = torch.tensor([[3, 2], [4, 1]])
    nothing = torch.full((2, 3), 6)
    torch.testing.assert_close(din(ids, None, [nothing]), dnn(ids, None, [nothing]))
    some = torch.tensor([[1, 2, 6], [0, 6, 6]])
    assert not torch.equal(din(ids, None, [some]), dnn(ids, None, [some]))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (EmbeddedField("seen", 6, padding=5, shares="item"), "another number"),
        (EmbeddedField("seen", 7, padding=6, shares="shop"), "no single-valued field"),
    ],
)
def test_a_sequence_must_fit_its_field(field: EmbeddedField, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ModelConfig(embedded=(EmbeddedField("item", 7), field))


def test_a_sequence_pads_with_its_last_id() -> None:
    with pytest.raises(ValueError, match="pads with its last id"):
        EmbeddedField("seen", 7, padding=3, shares="item")


def test_din_needs_a_sequence() -> None:
    made = config("din")
    with pytest.raises(ValueError, match="needs a sequence"):
        CtrModel(made, [torch.ones(f.size, dtype=torch.int64) for f in made.embedded])
