"""A Llama of two layers and eight features with byte-level tokens of its own, as the folder that transformers saves."""

from pathlib import Path

import pytest
import torch

TEXTS = ["the cat sat on the mat", "the dog sat at the door", "naïve cafés"] * 4
SEPARATOR = "<|endoftext|>"


def llama(folder: Path, *, vocabulary: int = 280, blocks: int = 2, template: str | None = None) -> Path:
    """Write and return a folder; ``template``: the tokenizer's chat template."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[SEPARATOR, "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    own.chat_template = template
    own.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=8, intermediate_size=16, num_hidden_layers=blocks, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, eos_token_id=1, pad_token_id=1, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
