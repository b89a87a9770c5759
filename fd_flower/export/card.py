"""Files next to an exported model: its labels and preprocessing, and a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fd_flower import __version__
from fd_flower.core.errors import InvalidInputError
from fd_flower.export.model import KeptModel
from fd_flower.results import RunFolder
from fd_flower.tasks import kept
from fd_flower.tasks.language.kept import KeptLanguageModel
from fd_flower.tasks.retrieval.kept import KeptRetriever

POINTS = {
    "received": "after it had learned from what the server sent",
    "trained": "after it had trained on the client's own data",
    "aggregated": "after aggregation",
}
FIGURES = {
    "accuracy": ("accuracy on the client's own test samples", "accuracy on the global test set"),
    "global": ("accuracy on the global test set", ""),
    "pooled": ("accuracy on all clients' test samples together", "accuracy on all clients' test samples together"),
    "validation": ("accuracy on the client's own validation samples", "accuracy on all clients' validation samples"),
    "ece": ("calibration error (ECE) on the first of these", "calibration error (ECE) on the first of these"),
}
"""Figure -> what it is of a client's model and of the server's."""
SCOPES = {
    "own/ndcg@10": "nDCG@10 on questions about the client's own documents",
    "others/ndcg@10": "nDCG@10 on the other clients' questions",
    "unseen/ndcg@10": "nDCG@10 on a collection that no client holds",
    "validation": "nDCG@10 on validation questions",
}
BITS = {
    "own/bits_per_byte": "bits per byte on own test texts",
    "others/bits_per_byte": "bits per byte on the others' test texts",
    "unseen/bits_per_byte": "bits per byte on the test set",
    "validation": "bits per byte on validation texts",
}


def preprocessing(model: KeptModel) -> dict[str, Any]:
    """Return what an input goes through, in the words of image processors."""
    if not model.takes_images:
        return {"shape": list(model.shape), "type": model.about.get("input", {}).get("type"), "as": "in the run's task"}
    channels, height, width = model.shape
    return {
        "mode": "L" if channels == 1 else "RGB",
        "size": {"height": height, "width": width},
        "resample": "bilinear",
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }


def config(model: KeptModel) -> dict[str, Any]:
    """Return ``config.json``: architecture, labels by the numbers of the logits, preprocessing, where it comes from."""
    about = model.about
    labels = list(kept.names(about, about.get("outputs", 0)))
    return {
        "library_name": "fd-flower",
        "architecture": about["architecture"] or about["network"],
        "num_labels": len(labels),
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "preprocessing": preprocessing(model),
        "fd_flower": about,
    }


def figures(about: Mapping[str, Any]) -> dict[str, float]:
    """Return a model's figures where it was evaluated, by what they are."""
    served = about["client"] == kept.SERVER
    of_task = {"retrieval": SCOPES, "language": BITS}.get(about["task"])
    names = of_task or {key: words[served] for key, words in FIGURES.items()}
    return {words: about["figures"][key] for key, words in names.items() if words and key in about["figures"]}


def whose(about: Mapping[str, Any]) -> str:
    """Return whose model it is and when it was evaluated, in words."""
    who = "the server's model" if about["client"] == kept.SERVER else f"client {about['client']}'s model"
    if lacks := about.get("lacks"):
        who += f", an emulator that lacks {lacks} of the model's blocks (the server has the whole one)"
    closing = " (closing message)" if about["closing"] else ""
    return f"{who}, round {about['round']}{closing}, {about['evaluated']}"


def card(model: KeptModel | KeptRetriever | KeptLanguageModel, name: str, run: Path | None) -> str:
    """Return ``README.md``: method, data, figures and evaluation point, and how the model is used."""
    about = model.about
    classifier = isinstance(model, KeptModel)
    task, library = ("image-classification", "fd-flower")
    if isinstance(model, KeptRetriever):
        task, library = ("sentence-similarity", "sentence-transformers")
    elif isinstance(model, KeptLanguageModel):
        task, library = ("text-generation", "peft" if model.adapts else "transformers")
    head = ["---", f"library_name: {library}", "tags:", "- federated-learning", "- knowledge-distillation"]
    texts = about.get("texts")
    license = about.get("license", "") if texts is None else texts["license"]
    if texts is not None:
        task = "text-classification"
    if not isinstance(model, KeptModel) or texts is not None or model.takes_images:
        head += [f"pipeline_tag: {task}"]
    who = "The server's" if about["client"] == kept.SERVER else f"Client {about['client']}'s own"
    lines = [
        *head,
        "---",
        "",
        f"# {name}",
        "",
        f"{who} model of a federated run by FD-Flower {__version__}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| method | {about['method']}{_status(run)} |",
        f"| network | {about['architecture'] or about['network']} |",
        *([f"| its license | {license} |"] if license else []),
        *(_base(about) if isinstance(model, KeptLanguageModel) else []),
        *([] if not classifier else [f"| classes | {_listed(kept.names(about, about.get('outputs', 0)))} |"]),
        f"| data | {_data(run)} |",
        f"| evaluation point | `{about['evaluated']}`: {POINTS[about['evaluated']]} |",
        f"| round | {about['round']}{' (closing message)' if about['closing'] else ''} |",
        *(f"| {words} | {value:.4f} |" for words, value in figures(about).items()),
        "",
        "It was trained on private data of its federation; others' data may look otherwise.",
        "",
        "## Use",
        "",
        *_use(model, name),
    ]
    return "\n".join(lines) + "\n"


def _base(about: Mapping[str, Any]) -> list[str]:
    return [f"| SHA-256 of its files | `{about['files']}` |", f"| precision of its body | {about['precision']} |"]


def _use(model: KeptModel | KeptRetriever | KeptLanguageModel, name: str) -> list[str]:
    if isinstance(model, KeptRetriever):
        return _use_retriever(name)
    return _use_language(model, name) if isinstance(model, KeptLanguageModel) else _use_classifier(model, name)


def _use_language(model: KeptLanguageModel, name: str) -> list[str]:
    loaded = [f'model = AutoModelForCausalLM.from_pretrained("{name}")']
    packages = ["from transformers import AutoModelForCausalLM"]
    if model.adapts:
        packages = ["from peft import PeftModel", *packages]
        loaded = ['base = AutoModelForCausalLM.from_pretrained("...")  # of these files', ""]
        loaded[1] = f'model = PeftModel.from_pretrained(base, "{name}")'
    start = model.tokenizer.convert_ids_to_tokens(model.model.vocabulary.start)
    return [
        "```python",
        *packages,
        "",
        *loaded,
        "```",
        "",
        f"Every text was read behind the token `{start}`. The model may repeat private text that it has learned from.",
    ]


def _use_retriever(name: str) -> list[str]:
    return [
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{name}")',
        'questions, passages = model.encode_query(["..."]), model.encode_document(["..."])',
        "scores = questions @ passages.T",
        "```",
    ]


def _use_classifier(model: KeptModel, name: str) -> list[str]:
    images = model.takes_images
    lines = ["```python", "import fd_flower", "", f'model = fd_flower.load("{name}")']
    if images:
        lines += ['model.classify("image.png")  # or an image of PIL, or a batch of bytes [B, channels, height, width]']
    if model.takes_texts:
        lines += ['model.classify("A text.")  # or a list of texts, or the path of a file of text']
    lines += ["logits = model(x)  # as model.preprocess returns inputs", "```", ""]
    if images:
        channels, height, width = model.shape
        lines += [
            f"An image is made {'gray' if channels == 1 else 'RGB'}, brought to {width} x {height} pixels (bilinear) "
            "and to [-1, 1]: `x / 127.5 - 1` of its bytes.",
        ]
    return [*lines, "`config.json` has the labels by the numbers of the logits, and the preprocessing."]


def _status(run: Path | None) -> str:
    summary = _summary(run)
    return f" ({summary['status']})" if summary.get("status") else ""


def _data(run: Path | None) -> str:
    summary = _summary(run)
    found = summary.get("data", {})
    words = [f"{key} {json.dumps(value) if isinstance(value, list) else value}" for key, value in found.items()]
    return ", ".join(words).replace("|", "\\|") or "a device's own"


def _summary(run: Path | None) -> dict[str, Any]:
    try:
        return {} if run is None else RunFolder.open(run).summary
    except InvalidInputError:  # not finished
        return {}


def _listed(names: Any) -> str:
    shown = ", ".join(names[:20])
    return f"{len(names)}: {shown}{', ...' if len(names) > 20 else ''}".replace("|", "\\|")
