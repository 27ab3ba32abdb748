"""Backbones against their papers' formulas, written out the long way."""

import torch

from amtl_export.models import CtrModel, EmbeddedField, ModelConfig, NumericField
from amtl_export.models.autoint import Interaction
from amtl_export.models.dcnv2 import DcnV2
from amtl_export.models.deepfm import pairwise_products


def config(backbone: str) -> ModelConfig:
    fields = (EmbeddedField("user", 9), EmbeddedField("item", 7), EmbeddedField("tags", 5, padding=4))
    return ModelConfig(embedded=fields, numeric=(NumericField("age"),), dim=4, backbone=backbone, hidden=(6,))


def test_pairwise_products_are_all_pairs() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 6, 4)
    pairs = sum((rows[:, i] * rows[:, j]).sum(dim=1) for i in range(6) for j in range(i + 1, 6))
    assert isinstance(pairs, torch.Tensor)
    torch.testing.assert_close(pairwise_products(rows), pairs)


def test_crosses_multiply_the_input() -> None:
    torch.manual_seed(0)
    model = DcnV2(config("dcnv2")).eval()
    rows, numeric = torch.randn(5, 3, 4), torch.randn(5, 1)
    x0 = torch.cat([rows.reshape(5, 12), numeric], dim=1)
    x = x0
    for cross in model.crosses:
        assert isinstance(cross, torch.nn.Linear)
        x = x0 * (x @ cross.weight.T + cross.bias) + x
    expected = model.out(torch.cat([x, model.deep(x0)], dim=1)).squeeze(-1)
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
