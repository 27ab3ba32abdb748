"""torch-rechub: every model takes one dict of named columns. Matching models are served as their user tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from entry import Inputs, Model, history, zipf
from torch import Tensor, nn, rand
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models import matching, multi_task, ranking
from torch_rechub.models.generative.hstu import HSTUModel

SIZES = {"user": 4000, "item": 6000, "category": 300}
LENGTH, NEGATIVES, D = 12, 4, 16
FIELDS = ("user", "item", "category")
MLP = {"dims": [64, 32], "activation": "relu", "dropout": 0.1}
TOWER = {"dims": [32, D], "activation": "relu"}
HEAD = {"dims": [16]}
TASKS = ["classification", "classification"]


def draw(name: str, rows: int) -> Tensor:
    """A column by its name."""
    if name == "price":
        return rand(rows)
    if name in ("hist", "neg_hist"):
        return history(SIZES["item"], rows, LENGTH)[0]
    if name == "neg_item":
        return zipf(SIZES["item"], rows, NEGATIVES, first=1)
    return zipf(SIZES[name], rows)


def columns(*names: str) -> Callable[[int], Inputs]:
    return lambda rows: {"x": {name: draw(name, rows) for name in names}}


def sparse(*names: str) -> list[Any]:
    return [SparseFeature(name, SIZES[name], D, padding_idx=0 if name == "item" else None) for name in names]


def sequence(name: str, pooling: str = "concat") -> Any:
    return SequenceFeature(name, SIZES["item"], D, pooling, shared_with="item", padding_idx=0)


def user_tower(model: nn.Module) -> nn.Module:
    model.mode = "user"  # type: ignore[assignment]
    return model


def rank(name: str, build: Callable[[], nn.Module], *names: str) -> Model:
    return Model("torch-rechub", name, build, columns(*(names or FIELDS)))


PRICE = DenseFeature("price")
SEQUENCE = ("user", "item", "hist")
TRIPLE = ("user", "item", "hist", "neg_item")


def matched(kind: Any, **more: Any) -> Callable[[], nn.Module]:
    """A model of a history, one positive item and some negative ones."""
    return lambda: kind(sparse("user"), [sequence("hist")], sparse("item"), [sequence("neg_item")], **more)


def field_aware(kind: Any, **more: Any) -> Callable[[], nn.Module]:
    """A linear table of one float and a field-aware one, of `fields · size` rows, for each field."""
    ones = [SparseFeature(name, SIZES[name], 1) for name in FIELDS]
    return lambda: kind(ones, [SparseFeature(n, SIZES[n] * 3, D) for n in FIELDS], D, mlp_params=MLP, **more)


def dien() -> nn.Module:
    made: nn.Module = ranking.DIEN(sparse("user"), [sequence("hist")], [sequence("neg_hist")], sparse("item"), HEAD)
    return made


def sasrec() -> nn.Module:
    own = SequenceFeature("seq", SIZES["item"], D, "concat", padding_idx=0)
    others = [SequenceFeature(name, SIZES["item"], D, "concat", shared_with="seq") for name in ("pos", "neg")]
    made: nn.Module = matching.SASRec([own, *others], max_len=LENGTH)
    return made


def of_sequences(rows: int) -> Inputs:
    return {"x": {name: draw("hist", rows) for name in ("seq", "pos", "neg")}}


def of_session(rows: int) -> Inputs:
    """One history has full length: NARM fails in PyTorch where none has."""
    found = draw("hist", rows)
    found[:1] = zipf(SIZES["item"], LENGTH, first=1)
    return {"input_dict": {"hist": found}}


def comirec_dr() -> nn.Module:
    """Its routing weights come uninitialised from the library."""
    model = matched(matching.ComirecDR, max_length=LENGTH)()
    nn.init.normal_(model.capsule.w, std=0.1)  # type: ignore[arg-type, union-attr]
    return model


def session(kind: Any, *more: Any) -> Callable[[], nn.Module]:
    return lambda: user_tower(kind(SequenceFeature("hist", SIZES["item"], D, "concat", padding_idx=0), *more))


def sine() -> nn.Module:
    return user_tower(matching.SINE(["hist"], ["item"], ["neg_item"], SIZES["item"], D, 32, 60, 4, LENGTH))


def hstu() -> nn.Module:
    made: nn.Module = HSTUModel(SIZES["item"] // 4, 32, 2, 2, 16, 16, max_seq_len=LENGTH)
    return made


def timed(rows: int) -> Inputs:
    return {"x": history(SIZES["item"] // 4, rows, LENGTH)[0], "time_diffs": zipf(10**6, rows, LENGTH)}


MODELS = [
    rank("WideDeep", lambda: ranking.WideDeep([PRICE], sparse(*FIELDS), MLP), *FIELDS, "price"),
    rank("DeepFM", lambda: ranking.DeepFM([*sparse(*FIELDS), PRICE], sparse(*FIELDS), MLP), *FIELDS, "price"),
    rank("DCN", lambda: ranking.DCN(sparse(*FIELDS), 3, MLP)),
    rank("DCNv2", lambda: ranking.DCNv2(sparse(*FIELDS), 3, MLP)),
    rank("EDCN", lambda: ranking.EDCN(sparse(*FIELDS), 2, {"dims": [], "activation": "relu", "dropout": 0.1})),
    rank("AFM", lambda: ranking.AFM(sparse(*FIELDS), D)),
    rank("FiBiNet", lambda: ranking.FiBiNet(sparse(*FIELDS), MLP)),
    rank("AutoInt", lambda: ranking.AutoInt(sparse(*FIELDS), [PRICE], mlp_params=MLP), *FIELDS, "price"),
    rank("DeepFFM", field_aware(ranking.DeepFFM)),
    rank("FatDeepFFM", field_aware(ranking.FatDeepFFM, reduction_ratio=1)),
    rank("DIN", lambda: ranking.DIN(sparse("user"), [sequence("hist")], sparse("item"), HEAD, HEAD), *SEQUENCE),
    rank("BST", lambda: ranking.BST(sparse("user"), [sequence("hist")], sparse("item"), MLP), *SEQUENCE),
    rank("DIEN", dien, *SEQUENCE, "neg_hist"),
    rank("SharedBottom", lambda: multi_task.SharedBottom(sparse(*FIELDS), TASKS, MLP, [HEAD, HEAD])),
    rank("ESMM", lambda: multi_task.ESMM(sparse("user"), sparse("item", "category"), HEAD, HEAD)),
    rank("MMOE", lambda: multi_task.MMOE(sparse(*FIELDS), TASKS, 3, HEAD, [HEAD, HEAD])),
    rank("PLE", lambda: multi_task.PLE(sparse(*FIELDS), TASKS, 2, 2, 1, HEAD, [HEAD, HEAD])),
    rank("AITM", lambda: multi_task.AITM(sparse(*FIELDS), 2, {"dims": [32]}, [HEAD, HEAD])),
    rank("DSSM", lambda: matching.DSSM(sparse("user", "category"), sparse("item"), TOWER, TOWER)),
    rank(
        "YoutubeDNN (user tower)",
        lambda: user_tower(
            matching.YoutubeDNN(
                [*sparse("user"), sequence("hist", "mean")], sparse("item"), [sequence("neg_item")], TOWER
            )
        ),
        "user",
        "hist",
    ),
    rank("GRU4Rec", matched(matching.GRU4Rec, user_params=TOWER), *TRIPLE),
    rank("MIND", matched(matching.MIND, max_length=LENGTH), *TRIPLE),
    rank("ComirecSA", matched(matching.ComirecSA), *TRIPLE),
    rank("ComirecDR", comirec_dr, *TRIPLE),
    Model("torch-rechub", "NARM (user tower)", session(matching.NARM, 32, 0.1, 0.1), of_session),
    Model("torch-rechub", "STAMP (user tower)", session(matching.STAMP, 0.05, 0.05), of_session),
    rank("SINE (user tower)", sine, "hist"),
    Model("torch-rechub", "SASRec", sasrec, of_sequences),
    Model("torch-rechub", "HSTU", hstu, timed),
]
