import numpy as np
import torch

from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.table import FieldTable
from amtl_export.principal.gradients import gradient_metrics, recorded

D = 4
FIELDS = (
    EmbeddedField("user", 6),
    EmbeddedField("item", 5),
    EmbeddedField("seen", 5, padding=4, shares="item"),
)


def model() -> CtrModel:
    torch.manual_seed(0)
    config = ModelConfig(FIELDS, dim=D, method="fbe", backbone="din", hidden=(8,))
    made = CtrModel(config, [torch.full((field.size,), 9) for field in FIELDS]).eval()
    with torch.no_grad():
        made.get_parameter("embedding.table.weight").normal_()
        made.get_parameter("embedding.table.weight")[10] = 0  # the padding row
    return made


def test_the_metric_is_the_mean_square_of_single_gradients() -> None:
    """Against one finite difference for each number of each row of each example."""
    net = model().double()
    ids, seen = torch.tensor([[2, 1], [3, 2]]), torch.tensor([[1, 4, 4], [3, 2, 4]])
    metrics = gradient_metrics(net, [(ids, None, (seen,))])
    assert [metric.shape for metric in metrics] == [(D, D)] * 3
    expected = np.zeros((D, D))
    table = next(module for module in net.modules() if isinstance(module, FieldTable))
    for row in range(2):
        gradient = np.zeros(D)
        for j in range(D):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    table.weight[ids[row, 0], j] += step
                    values.append(float(net(ids[row : row + 1], None, (seen[row : row + 1],))))
                    table.weight[ids[row, 0], j] -= step
            gradient[j] = (values[0] - values[1]) / 2e-5
        expected += np.outer(gradient, gradient) / 2
    np.testing.assert_allclose(metrics[0], expected, rtol=1e-5, atol=1e-8)
    assert np.trace(metrics[1]) > 0
    assert not metrics[2].any()  # the sequence's rows are the items'


def test_recording_ends_with_its_block() -> None:
    net = model()
    with recorded(net.method) as lookups:
        net(torch.tensor([[2, 1]]), None, (torch.tensor([[4]]),))
    assert [lookup.fields for lookup in lookups] == [(0, 1), (2,)]
    assert "lookup" not in vars(net.method)
