"""Options of the language task (section ``language``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fd_flower import models
from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, names, option
from fd_flower.core.trees import within

LENGTH = 128
"""Tokens of a window, where ``data.length`` does not say."""
TEXTS = 200
AUTO = "auto"


@dataclass(frozen=True)
class Config(Options):
    """How language models read texts (section ``language``)."""

    section = "language"

    start: Any = names(AUTO)
    """Token before every text, which is never scored: its text, or a list with one for each name in `model.name`.
    `auto`: what the tokenizer puts before a text, else `<|endoftext|>`, else the tokenizer's own start token."""
    stride: int | None = option(None, least=1)
    """Tokens by which a window moves on in texts longer than `data.length`, in evaluation. None: half of it."""
    texts: int | None = option(TEXTS, least=1)
    """Maximum number of texts in an evaluation of a client's own, of the others' and of unseen texts, drawn by
    `run.seed`. None: all of them."""

    @staticmethod
    def holds(source: str) -> bool:
        """Whether a source's samples are for language models: no source says so, ``data.task`` does."""
        return False

    @staticmethod
    def usual(tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of other sections: of loaded models, adapters on a bfloat16 body learn."""
        name = within(tree, "model").get("name") or models.LANGUAGE[0]
        listed = name if isinstance(name, list) else [name]
        built_in = all(str(one).partition(":")[0] in models.LANGUAGE for one in listed)
        trainable = within(tree, "client").get("trainable") or ("all" if built_in else "lora")
        return {
            "model": {"name": models.LANGUAGE[0]},
            "data": {"partition": "iid"},
            "client": {"trainable": trainable, "lora_layers": "all" if built_in else "attention"},
            "run": {"precision": "fp32" if built_in or trainable == "all" else "bf16"},
        }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a run's section."""
        return settings.kinds.get("language") or cls()

    def start_of(self, settings: Settings, name: str) -> str:
        """Return the start token that is chosen for a model by its name.

        Raises
        ------
        InvalidInputError
            For a list that does not fit ``model.name``.
        """
        if isinstance(self.start, str):
            return self.start
        listed = settings.model.name if isinstance(settings.model.name, list) else [settings.model.name]
        if len(listed) != len(self.start):
            raise InvalidInputError(
                f"language.start lists {len(self.start)} tokens and model.name {len(listed)} models; expected one a "
                "model, or one for all"
            )
        return dict(zip(listed, self.start, strict=True)).get(name, AUTO)
