"""The forms of a model: as a run kept it, ``.safetensors``, ``.pt2``, ``.onnx``, a folder; each is loaded again."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.kept import ABOUT
from fd_flower.core.storage import save
from fd_flower.export.build import classifier
from fd_flower.export.card import card, config
from fd_flower.export.model import KeptModel
from fd_flower.tasks import kept
from fd_flower.tasks.language.kept import KeptLanguageModel
from fd_flower.tasks.retrieval.kept import KeptRetriever

Kept = KeptModel | KeptRetriever | KeptLanguageModel

FORMS = (".safetensors", ".pt2", ".onnx")
INPUT, OUTPUT = "x", "logits"
OPSET = 18
EXTRA = "pip install 'fd-flower[export]'"


def load(source: str | Path, client: str | None = None, *, network: Module | None = None) -> Kept:
    """Return a model that a run kept, on the CPU, in evaluation mode.

    Parameters
    ----------
    source : str | Path
        The folder of a run that kept its models (``run.keep``), a device's ``state-dir``, or what ``fd-flower export``
        wrote.
    client : str | None
        Whose: a client's id, or ``server``; None: the only one.
    network : Module | None
        Your own network for the weights, where the run does not record how to build it.

    Returns
    -------
    KeptModel | KeptRetriever | KeptLanguageModel
        ``model(x)`` gives logits [B, C], ``model.classify(image)`` the class's name; of a retriever ``encode(texts)``
        gives vectors; of a language model ``generate(prompt)`` continues a text, ``merged()`` is a model of
        ``transformers``.

    Raises
    ------
    InvalidInputError
        Where there is no such model, its network cannot be built, or a package is missing.
    """
    path = Path(source).expanduser().absolute()
    if path.is_file() and path.suffix in (".pt2", ".onnx"):
        return _exported(path)
    path = kept.find(path, client)
    about, tensors = kept.read(path)
    if about["task"] == "retrieval":
        return KeptRetriever(about, tensors)
    if about["task"] == "language":
        return KeptLanguageModel(about, tensors)
    return KeptModel(classifier(about, tensors, network), about)


def write(model: Kept, to: Path, run: Path | None = None) -> None:
    """Write a model in the form that a path names: ``.safetensors``, ``.pt2``, ``.onnx``; without a suffix a folder.

    Parameters
    ----------
    model : KeptModel | KeptRetriever | KeptLanguageModel
        What ``load`` returned.
    to : Path
        Where; a file that is there is replaced, a folder must be new or empty.
    run : Path | None
        The run's folder, for the model card.

    Raises
    ------
    InvalidInputError
        For a form that there is none of, a network that has no such form, or a missing package.
    """
    if to.suffix and to.suffix not in FORMS and not to.is_dir():
        raise InvalidInputError(
            f"--to is '{to.name}'; expected a name that ends in {', '.join(FORMS)}, or a folder's, without a suffix"
        )
    if to.suffix not in FORMS:
        _write_folder(model, to, run)
    elif isinstance(model, KeptRetriever) and to.suffix != ".safetensors":
        raise InvalidInputError(
            f"a retriever takes texts, which {to.suffix} does not: give a folder (sentence-transformers' layout) or "
            ".safetensors"
        )
    elif isinstance(model, KeptLanguageModel) and to.suffix != ".safetensors":
        raise InvalidInputError(
            f"a language model takes texts, which {to.suffix} does not: give a folder (an adapter of peft, or the "
            "model of transformers) or .safetensors"
        )
    elif to.suffix == ".safetensors":
        to.parent.mkdir(parents=True, exist_ok=True)
        save(to, _weights(model), {ABOUT: json.dumps(model.about, sort_keys=True)})
    else:
        assert isinstance(model, KeptModel)
        to.parent.mkdir(parents=True, exist_ok=True)
        with _draft(to) as draft:
            {".pt2": _write_pt2, ".onnx": _write_onnx}[to.suffix](model, draft)


def _weights(model: Kept) -> dict[str, Tensor]:
    if isinstance(model, KeptLanguageModel):
        return model.model.state_dict()
    return (model.retriever if isinstance(model, KeptRetriever) else model.module).state_dict()


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """Give a path next to another that takes its place once it is whole."""
    draft = to.with_name(f".{os.getpid()}{to.suffix}")
    try:
        yield draft
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)


def _example(model: KeptModel) -> tuple[Tensor]:
    """Return two inputs as the network takes them: with one, exporters take the number for a constant."""
    if model.takes_texts:
        raise InvalidInputError(
            "a model of texts reads them by its tokenizer, outside of any program: take .safetensors or a folder"
        )
    if not model.shape:
        raise InvalidInputError("the run does not say what inputs the model takes, so that it cannot be traced")
    of = torch.zeros(2, *model.shape, dtype=torch.uint8 if model.takes_images else _type(model))
    return (model.preprocess(of),)


def _type(model: KeptModel) -> torch.dtype:
    return getattr(torch, model.about["input"]["type"])


def _traced(model: KeptModel) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters about themselves
            return torch.export.export(
                model.module, _example(model), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
            )
    except InvalidInputError:
        raise
    except Exception as error:  # a network may do anything
        why = " ".join(str(error).split())[:300]
        raise InvalidInputError(
            f"{type(model.module).__name__} cannot be traced by torch.export ({why}): take .safetensors or a folder"
        ) from None


def _write_pt2(model: KeptModel, to: Path) -> None:
    torch.export.save(_traced(model), to, extra_files={ABOUT: json.dumps(model.about, sort_keys=True)})


def _write_onnx(model: KeptModel, to: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise InvalidInputError(f"ONNX needs {error.name}: {EXTRA}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _traced(model),
            _example(model),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
        )
    if program is None:
        raise RunError(f"torch.onnx gave nothing for {type(model.module).__name__}")
    found = program.model_proto
    entry = found.metadata_props.add()
    entry.key, entry.value = ABOUT, json.dumps(model.about, sort_keys=True)
    onnx.save(found, to)


def _write_folder(model: Kept, to: Path, run: Path | None) -> None:
    if to.is_dir() and any(to.iterdir()):
        raise InvalidInputError(f"{to} holds something already: name another folder")
    draft = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        if isinstance(model, KeptRetriever):
            from fd_flower.export.sentences import write_layout

            write_layout(model, draft)
        elif isinstance(model, KeptLanguageModel):
            _write_language(model, draft)
        else:
            save(draft / "model.safetensors", _weights(model), {ABOUT: json.dumps(model.about, sort_keys=True)})
            (draft / "config.json").write_text(json.dumps(config(model), indent=2) + "\n", encoding="utf-8")
        (draft / "README.md").write_text(card(model, to.name, run), encoding="utf-8")
        if to.is_dir():
            to.rmdir()
        draft.replace(to)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_language(model: KeptLanguageModel, to: Path) -> None:
    """Write the adapter alone where there is one, else the whole model with its tokenizer."""
    if model.adapts:
        model.save_adapter(to)
        return
    model.merged().save_pretrained(to)
    model.tokenizer.save_pretrained(to)


# --- exported ones, loaded


class _Called(nn.Module):
    """Logits from a function: an exported network is none that PyTorch could switch between modes."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _exported(path: Path) -> KeptModel:
    read = {".pt2": _read_pt2, ".onnx": _read_onnx}[path.suffix]
    try:
        call, about = read(path)
        return KeptModel(_Called(call), json.loads(about))
    except InvalidInputError:
        raise
    except Exception as error:  # what a parser makes of any bytes has no end
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidInputError(f"{path} is no model that FD-Flower exported ({why})") from None


def _read_pt2(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    words = {ABOUT: ""}
    program = torch.export.load(path, extra_files=words)
    return program.module().__call__, words[ABOUT]


def _read_onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    try:
        import onnxruntime
    except ImportError:
        raise InvalidInputError(f"an .onnx model needs onnxruntime: {EXTRA}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: x.contiguous().numpy()})[0])

    return call, session.get_modelmeta().custom_metadata_map[ABOUT]
