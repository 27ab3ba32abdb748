"""AutoEmb's soft selection against its paper's equation."""

import torch

from amtl_export.models.autoemb import AutoEmbedding, SoftSelection
from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.models.ctr import CtrModel

D = 8


def build() -> CtrModel:
    torch.manual_seed(0)
    fields = (EmbeddedField("user", 40), EmbeddedField("kind", 5, governed=False), EmbeddedField("tags", 9, padding=8))
    config = ModelConfig(embedded=fields, dim=D, method="autoemb", hidden=(8,), candidates=(0.25, 0.5))
    return CtrModel(config, [torch.randint(1, 1000, (f.size,)) for f in fields])


def method_of(model: CtrModel) -> AutoEmbedding:
    assert isinstance(model.embedding, AutoEmbedding)
    return model.embedding


def test_candidates_are_mixed_by_popularity() -> None:
    model = build()
    for _ in range(3):  # running statistics away from their start
        model(torch.randint(0, 5, (64, 2)), None, [torch.randint(0, 9, (64, 3))])
    method = method_of(model.eval())
    assert method.widths == [2, 4, 8]
    own = method.selections["0"]
    assert isinstance(own, SoftSelection)
    ids = torch.tensor([7, 31])
    alpha = torch.softmax(own.controller(own.features[ids]), dim=1)
    expected = torch.zeros(2, D)
    for k, part in enumerate(method.table.weight[ids].split([2, 4, 8], dim=1)):
        expected += alpha[:, k : k + 1] * torch.tanh(own.norms[k](own.transforms[k](part)))
    torch.testing.assert_close(method.lookup(ids.unsqueeze(1), (0,))[:, 0], expected)
    plain = method.lookup(torch.tensor([[3]]), (1,))[0, 0]
    assert torch.equal(plain, method.table.weight[40 + 3, -D:])


def test_frozen_rows_are_its_answers_in_evaluation() -> None:
    method = method_of(build().train())
    rows = method.frozen_rows()
    assert method.training
    method.eval()
    torch.testing.assert_close(rows[:40], method.lookup(torch.arange(40).unsqueeze(1), (0,))[:, 0])
    assert method.frozen_dims().tolist() == [D] * 53 + [0]
    assert not bool(rows[-1].any())


def test_only_the_controllers_are_for_validation_batches() -> None:
    method = method_of(build())
    controllers = {id(p) for p in method.controller_parameters()}
    named = {name for name, p in method.named_parameters() if id(p) in controllers}
    assert named == {name for name, _ in method.named_parameters() if ".controller." in name}
    assert len(named) == 2 * 4
