"""Why a model that is not exported, or not as it is in PyTorch, is so: what the model does, and where."""

PACKS = "`torch.export`: packs the histories that are not empty, and how many these are only the data says"
LOOPS = "`torch.export`: a Python loop over the examples writes the mask's id at a place that only the data says"
PADS = "`torch.export`: `pad_packed_sequence` makes its answer as long as the longest history of the batch"

REASONS = {
    "torch-rechub/DIEN": PACKS,
    "torch-rechub/MIND": "draws its routing logits anew in every forward: it does not answer twice alike itself",
    "torch-rechub/NARM (user tower)": PADS,
    "deepctr-torch/DIEN": PACKS,
    "deepctr-torch/DIEN, AUGRU": PACKS,
    "recbole/BERT4Rec": LOOPS,
    "recbole/BERT4Rec, all items": LOOPS,
    "recbole/SRGNN": "`torch.export`: the forward builds each session's graph in NumPy",
    "fuxictr/DIEN": PACKS,
    "fuxictr/ETA": "`topk` over hash distances, many of them equal: which of these it takes is not defined",
    "fuxictr/SIM": "`topk` over similarities, many of them equal: which of these it takes is not defined",
    "pytorch-widedeep/TabNet": "`torch.export`: ghost batch norm cuts the batch in pieces, and counts them in NumPy",
    "fuxictr/MIRRN": "`torch.onnx`: multiplies spectra, and has no ONNX for a complex `einsum`",
}
