"""A BERT and a GPT-2 of two layers and eight features with a vocabulary of their own, as libraries save them."""

from pathlib import Path

import pytest
import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "dog",
    "sat",
    "a",
    "barked",
    "at",
    "stocks",
    "fell",
]


def plain(folder: Path, **changes: object) -> Path:
    """Write and return a folder of transformers; ``changes`` of its configuration."""
    pytest.importorskip("transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "plain")
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    BertModel(BertConfig(**{**settings, **changes})).save_pretrained(folder / "plain")
    return folder / "plain"


def sentences(folder: Path, pooling: str = "mean") -> Path:
    """Write and return a folder of sentence-transformers."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    modules = [Transformer(str(plain(folder)), max_seq_length=16), Pooling(8, pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "sentences"))
    return folder / "sentences"


def gpt(folder: Path) -> Path:
    """Write and return a folder of transformers with a GPT-2, whose linear layers are ``Conv1D``."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    settings = {"vocab_size": len(WORDS), "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
    none = dict.fromkeys(("bos_token_id", "eos_token_id"))
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    GPT2Model(GPT2Config(**settings, **rates, **none)).save_pretrained(folder / "gpt")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "gpt" / "tokenizer.json"))
    return folder / "gpt"
