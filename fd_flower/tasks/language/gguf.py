"""GGUF files, converted once a machine to a folder that transformers loads in a fraction of the time."""

from functools import partial
from logging import INFO
from pathlib import Path
from typing import Any

import torch

from fd_flower.core.checksum import of_file
from fd_flower.core.errors import InvalidInputError, reason
from fd_flower.core.flower import log
from fd_flower.data.cache import stored

LAYOUT = 1  # of the converted folders: raise it when they change
EXTRA = "pip install 'fd-flower[language]'"


def converted(path: Path) -> Path:
    """Return the folder of a GGUF file's model and tokenizer, in the cache by the file's SHA-256.

    Weights are dequantized, and kept as bfloat16: they had four to eight bits.

    Raises
    ------
    InvalidInputError
        Where there is no such file, a package is missing, or transformers cannot read it.
    """
    if not path.is_absolute():
        raise InvalidInputError(f"model.name is '{path}', a relative path: give the absolute path of a .gguf file")
    if not path.is_file():
        raise InvalidInputError(f"model.name={path}: there is no such file")
    return stored("gguf", [LAYOUT, of_file(path)], partial(_convert, path))


def _convert(path: Path, folder: Path) -> None:
    try:
        import gguf
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise InvalidInputError(f"model.name={path} needs {error.name}: {EXTRA}") from None
    try:
        license = _license(gguf.GGUFReader(path))
    except Exception as error:  # of a file that ends too soon, numpy and struct raise what they raise
        raise InvalidInputError(
            f"model.name={path}, of {path.stat().st_size:,} bytes, is no GGUF file or not all of one "
            f"({reason(error)}): download it again"
        ) from None
    log(INFO, "%s is converted, once on this machine", path)
    disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            model: Any = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    except Exception as error:  # its loaders raise whatever they raise
        raise InvalidInputError(f"model.name={path} cannot be read by transformers: {reason(error)}") from None
    # As long as a model says that it is quantized, it refuses to be saved; its weights are not any more.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    if license is not None:
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n", encoding="utf-8")


def _license(reader: Any) -> str | None:
    """Return the license that a file states."""
    field = reader.fields.get("general.license")
    return None if field is None else str(field.contents())
