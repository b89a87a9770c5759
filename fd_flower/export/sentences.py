"""A retriever in sentence-transformers' layout, which ``SentenceTransformer(folder)`` reads."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.retrieval.encoders import Hashed
from fd_flower.tasks.retrieval.kept import KeptRetriever
from fd_flower.tasks.retrieval.models import Bag, Tower


def write_layout(model: KeptRetriever, to: Path) -> None:
    """Write a retriever as a folder of sentence-transformers.

    Its vectors have length 1. What has learned on top of a frozen encoder is a dense layer of its own.

    Raises
    ------
    InvalidInputError
        For an encoder or a pooling that sentence-transformers does not have.
    """
    if isinstance(model.encoder, Hashed):
        raise InvalidInputError(
            f"'{model.encoder.name}' is no model of sentence-transformers, so that a folder has no layout: take "
            ".safetensors, which fd_flower.load reads"
        )
    if model.config.pool == "mean_all":
        raise InvalidInputError(
            "retrieval.pool=mean_all averages over padding, too, which sentence-transformers has no layer for: take "
            ".safetensors, which fd_flower.load reads"
        )
    if model.about["trainable"] in ("adapter", "prompt"):
        raise InvalidInputError(
            f"client.trainable={model.about['trainable']} adds what sentence-transformers has no place for: take "
            ".safetensors, which fd_flower.load reads"
        )
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    whole = SentenceTransformer(model.encoder.folder, device="cpu", local_files_only=True)
    stages: list[nn.Module] = list(whole)
    if model.frozen:
        residual = model.retriever.body.get_parameter("weight").detach()
        size = len(residual)
        dense = Dense(size, size, bias=False, activation_function=nn.Identity())
        dense.linear.weight.data = torch.eye(size) + residual
        stages = [*_pooled(stages, model.config.pool, Pooling), dense]
    else:
        body: Any = model.retriever.body
        stages[0].load_state_dict(_merged(body, stages[0]))
        for stage, learned in zip(stages[1:], [] if isinstance(body, Bag) else list(body.stages)[1:], strict=False):
            stage.load_state_dict(learned.state_dict())
        stages = _pooled(stages, model.config.pool, Pooling)
    normalized = isinstance(stages[-1], Normalize)
    made = SentenceTransformer(
        modules=[*stages, *([] if normalized else [Normalize()])],
        device="cpu",
        prompts={role: prompt for role, prompt in whole.prompts.items() if prompt is not None},
        default_prompt_name=whole.default_prompt_name,
    )
    made.save_pretrained(str(to), create_model_card=False)


def _pooled(stages: list[nn.Module], pool: str, pooling: Any) -> list[nn.Module]:
    """Return a model's stages with another pooling, where one is asked for."""
    if pool == "model":
        return stages
    old: Any = stages[1]
    return [stages[0], pooling(old.get_embedding_dimension(), pooling_mode=pool), *stages[2:]]


def _merged(body: Any, first: nn.Module) -> dict[str, torch.Tensor]:
    """Return the first stage's weights with what has learned in them; adapters are added to the layers they adapt."""
    if isinstance(body, Bag):
        return {"embedding.weight": body.vectors.detach()}
    assert isinstance(body, Tower)
    stage = copy.deepcopy(body.stages[0])
    for module in stage.modules():
        merge = getattr(module, "merge", None)
        if callable(merge) and "lora_A" in dict(module.named_children()):
            merge()
    found = {
        name.replace(".base_layer.", "."): tensor for name, tensor in stage.state_dict().items() if ".lora_" not in name
    }
    return {name: found[name] for name in first.state_dict()}
