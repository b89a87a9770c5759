"""A language model that a run kept: what of it has learned, with the body that its files have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.models.adapters import adapted
from fd_flower.tasks.kept import body_of, learning, restore
from fd_flower.tasks.language.blocks import keep_blocks
from fd_flower.tasks.language.config import AUTO
from fd_flower.tasks.language.generate import generated
from fd_flower.tasks.language.models import LanguageModel, build
from fd_flower.tasks.language.pretrained import Causal
from fd_flower.tasks.language.scoring import Scores, scored
from fd_flower.training import one_thread

NETWORK = "body.network."
"""What stands before the names of the network's own parameters."""


@final
class KeptLanguageModel(nn.Module):
    """A client's, or the server's, language model in evaluation mode, on the CPU.

    Parameters
    ----------
    about : dict[str, Any]
        What is known about it.
    tensors : dict[str, Tensor]
        What has learned.

    Attributes
    ----------
    model : LanguageModel
        The model as the run had it: its body in the run's precision.
    """

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.about = about
        self._tensors = tensors
        self.model = self._built(half=about["precision"] == "bf16")
        self.eval()

    def _built(self, *, half: bool) -> LanguageModel:
        """Return the model with what has learned; ``half``: with a body in bfloat16, as the run had it."""
        about, name = self.about, body_of(self.about)
        model = build(
            name,
            seed=about["seed"],
            length=about["length"],
            start=_start(about, name),
            trainable=about["trainable"],
            half=half,
        )
        if model.files != about["files"]:
            raise InvalidInputError(f"the files of {name} have changed since the run: restore them")
        if about["lacks"]:  # of an emulator everything was kept, so that its blocks may be any
            keep_blocks(model.body, range(len(model.layers()) - about["lacks"]))
        learning(model, about)
        restore(model, self._tensors, about, f"the body of '{name}'", alike=half == (about["precision"] == "bf16"))
        return model

    @property
    def tokenizer(self) -> Any:
        """A fast tokenizer of ``transformers``, or the built-in one."""
        return self.model.tokenizer

    @property
    def adapts(self) -> bool:
        """Whether what has learned is one LoRA adapter, which ``save_adapter`` writes."""
        return self.about["trainable"] == "lora" and self.about["adapters"] != "stack"

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits [B, L, V] of tokens [B, L] behind the start token; ``mask`` [B, L] says which are scored."""
        return self.model.logits(ids, mask)

    # --- what it makes of texts

    def scores(self, texts: Sequence[str]) -> Scores:
        """Return bits, tokens and bytes of each text, as a run measures them."""
        tokens = [np.array(own, np.int32) for own in self.model.vocabulary.encode(list(texts))]
        stride = self.about["language"].get("stride")
        with one_thread():
            return scored(self.model, texts, tokens, stride=stride, precision=self.about["precision"])

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits per byte of all texts together, as a run measures it.

        Raises
        ------
        InvalidInputError
            Where no text has a byte.
        """
        found = self.scores(texts).bits_per_byte
        if found is None:
            raise InvalidInputError("the texts are empty, so that they have no bits per byte")
        return found

    def generate(
        self, prompt: str, *, max_tokens: int = 100, temperature: float = 0.0, seed: int = 0, chat: bool = False
    ) -> str:
        """Return how the model continues a text. It may repeat private text that it has learned from.

        Parameters
        ----------
        prompt : str
            What it continues, behind the start token.
        max_tokens : int
            Tokens, at most; it ends before them where the model does.
        temperature : float
            0: always the likeliest token; above: drawn, the more evenly the higher it is.
        seed : int
            Of the draws.
        chat : bool
            Put the prompt into the chat template of the model's tokenizer.

        Raises
        ------
        InvalidInputError
            Where the tokenizer has no chat template, or the model does not take so many tokens.
        """
        return generated(self.model, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, chat=chat)

    # --- as a model of transformers

    def merged(self) -> Any:
        """Return the model of ``transformers`` in float32, with adapters added to the layers that they adapt.

        Raises
        ------
        InvalidInputError
            For the built-in model, and for what ``transformers`` has no layers for.
        """
        model = self._built(half=False)
        body = self._causal(model)
        network = body.network
        if self.about["trainable"] == "adapter":
            raise InvalidInputError(
                "client.trainable=adapter adds layers that transformers does not have: use it as is"
            )
        with torch.no_grad():
            for name, layer in list(network.named_modules()):
                if isinstance(getattr(layer, "lora_A", None), nn.ModuleDict):
                    _merge(network, name, layer)
        body.keep_activations()
        return network.float().requires_grad_(True).eval()

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter alone: a folder that ``peft.PeftModel.from_pretrained(base, folder)`` puts on the base.

        Its configuration names the base by its hub name, or by the SHA-256 of its files.

        Raises
        ------
        InvalidInputError
            For a model without LoRA, or whose change has more than one part (``server.adapters=stack``).
        """
        self._causal(self.model)
        if not self.adapts:
            raise InvalidInputError(
                f"client.trainable={self.about['trainable']} server.adapters={self.about['adapters']} leaves no single "
                "LoRA adapter: take merged()"
            )
        from peft import LoraConfig

        to = Path(folder)
        to.mkdir(parents=True, exist_ok=True)
        modules = [name.removeprefix(NETWORK) for name in adapted(self._tensors)]
        name = body_of(self.about)
        config = LoraConfig(
            r=self.about["rank"],
            lora_alpha=self.about["lora_alpha"],
            target_modules=modules,
            task_type="CAUSAL_LM",
            base_model_name_or_path=f"sha256:{self.about['files']}" if Path(name).is_absolute() else name,
            inference_mode=True,
        )
        config.save_pretrained(str(to))
        own = {
            "base_model.model." + key.removeprefix(NETWORK).replace(".default.", "."): tensor.float().contiguous()
            for key, tensor in self._tensors.items()
        }
        save_file(own, to / "adapter_model.safetensors")

    def _causal(self, model: LanguageModel) -> Causal:
        if not isinstance(model.body, Causal):
            raise InvalidInputError(
                f"'{body_of(self.about)}' is no model of transformers: take .safetensors, which fd_flower.load reads"
            )
        return model.body


def _start(about: dict[str, Any], name: str) -> str:
    """Return the start token that the run chose for a model."""
    start, listed = about["language"].get("start", AUTO), about["models"]
    if isinstance(start, str):
        return start
    names = listed if isinstance(listed, list) else [listed]
    return dict(zip(names, start, strict=True)).get(name, AUTO)


def _merge(network: nn.Module, name: str, layer: Any) -> None:
    """Replace a layer that adapts another one by that one, with the change added to its weight."""
    own = layer.get_base_layer()
    change = layer.scaling["default"] * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight)
    if hasattr(layer, "stacked"):
        change = change + layer.stacked.up @ layer.stacked.down
    own.weight.add_(change)
    above, _, slot = name.rpartition(".")
    setattr(network.get_submodule(above), slot, own)
