"""How a language model continues a text: seeded, by the likeliest token unless a temperature is given."""

import unicodedata
from math import inf
from typing import Any

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seeded
from fd_flower.tasks.language.built_in import Bytes
from fd_flower.tasks.language.models import LanguageModel
from fd_flower.tasks.language.pretrained import Causal
from fd_flower.training import one_thread

LEAST = 0.001
"""Temperature above 0 by which logits are divided, at least: smaller ones overflow."""


def generated(model: LanguageModel, prompt: str, *, max_tokens: int, temperature: float, seed: int, chat: bool) -> str:
    """Return how a model in evaluation mode continues a prompt; see ``KeptLanguageModel.generate``."""
    if max_tokens < 1 or not (temperature == 0 or LEAST <= temperature < inf):
        raise InvalidInputError(
            f"max_tokens is {max_tokens} and temperature {temperature:g}: expected 1 token or more, and a "
            f"temperature of 0 or from {LEAST:g} on"
        )
    ids = _chat(model, prompt) if chat else [model.vocabulary.start, *model.vocabulary.encode([prompt])[0]]
    given = torch.tensor([ids])
    with torch.no_grad(), seeded(seed, torch.device("cpu")), one_thread():
        if isinstance(model.body, Causal):
            new = _by_transformers(model, model.body.network, given, max_tokens, temperature)
        else:
            new = _step_by_step(model, given, max_tokens, temperature)
    tokenizer = model.tokenizer
    return tokenizer.decode(new) if isinstance(tokenizer, Bytes) else tokenizer.decode(new, skip_special_tokens=True)


def _chat(model: LanguageModel, prompt: str) -> list[int]:
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidInputError("the model's tokenizer has no chat template: leave --chat (chat=True) out")
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def _by_transformers(
    model: LanguageModel, network: Any, given: Tensor, max_tokens: int, temperature: float
) -> list[int]:
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and given.shape[1] + max_tokens > longest:
        raise InvalidInputError(
            f"the prompt has {given.shape[1]} tokens and {max_tokens} are asked for; the model takes {longest} in all"
        )
    said = network.generation_config.eos_token_id
    ends = {model.vocabulary.start, model.tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])}
    drawn: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.autocast("cpu", torch.bfloat16, enabled=model.mixes):
        found = network.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=max_tokens,
            eos_token_id=sorted(end for end in ends if end is not None),
            pad_token_id=model.vocabulary.start,
            **drawn,
        )
    return [int(token) for token in found[0, given.shape[1] :]]


def _step_by_step(model: LanguageModel, given: Tensor, max_tokens: int, temperature: float) -> list[int]:
    """Return the tokens that follow, each from a window of those before it."""
    start, new = model.vocabulary.start, []
    for _ in range(max_tokens):
        behind = given[:, 1:][:, -(model.length - 1) :] if model.length > 1 else given[:, :0]
        ids = torch.cat([given[:, :1], behind], 1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        logits = model.logits(ids, mask)[0, -1]
        token = int(logits.argmax() if temperature == 0 else (logits / temperature).softmax(0).multinomial(1))
        if token == start:
            break
        new.append(token)
        given = torch.cat([given, torch.tensor([[token]])], 1)
    return new


def printable(text: str) -> str:
    """Return a text without control, escape and invisible formatting characters, which could steer a terminal."""
    return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co"))
