"""The untrained toy: its sizes, and a tokenizer of bytes and the most common words, in Qwen's chat format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from x2sam_rt.config import (
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    ModelConfig,
    PixelBudget,
    PixelDecoderConfig,
)
from x2sam_rt.data.synthetic import corpus
from x2sam_rt.model.tokenizer import (
    ADDED,
    END_OF_TEXT,
    IM_END,
    IM_START,
    VISION_END,
    VISION_START,
)
from x2sam_rt.model.training.toy.initial_weights import initialise
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.tasks.marks import Mark

_SIDE = 128
_VOCABULARY = 640
_CORPUS = 4000

_SPECIAL = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")

_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 10000,
    "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    "tie_word_embeddings": True,
}
_VISION = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [1],
}


def toy_config(vocabulary: int) -> ModelConfig:
    """vocabulary: rows of the embedding table."""
    return ModelConfig(
        image_size=_SIDE,
        dim=64,
        mask_encoder=MaskEncoderConfig(
            embed_dims=(48, 64, 96, 192),
            blocks=(2, 2, 3, 1),
            heads=(3, 4, 6, 8),
            windows=(8, 4, 8, 4),
            global_blocks=(5,),
        ),
        pixel_decoder=PixelDecoderConfig(layers=2, heads=8, feedforward_dim=256),
        mask_decoder=MaskDecoderConfig(layers=4, heads=4, feedforward_dim=256, queries=16),
        memory=MemoryConfig(
            slots=4, attention_layers=2, attention_feedforward_dim=256, fuser_layers=1, fuser_feedforward_dim=128
        ),
        language={
            "text_config": {**_TEXT, "vocab_size": vocabulary},
            "vision_config": _VISION,
            "tie_word_embeddings": True,
            "image_token_id": 6,
            "video_token_id": 7,
            "vision_start_token_id": 3,
            "vision_end_token_id": 4,
        },
        image_budget=PixelBudget(min_pixels=_SIDE**2, max_pixels=_SIDE**2 * 16),
        video_budget=PixelBudget(min_pixels=_SIDE**2, max_pixels=_SIDE**2 * 64),
    )


def toy_model(tokenizer: Path, seed: int) -> X2SAM:
    """The untrained model, and its tokenizer written to a folder."""
    rows = make_tokenizer(corpus(_CORPUS, seed), _VOCABULARY, tokenizer)
    torch.manual_seed(seed)
    model = X2SAM(toy_config(rows))
    initialise(model)
    return model


def make_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> int:
    """Learns byte-pair tokens from texts and saves the tokenizer to a folder. vocabulary: at most so many tokens, all
    256 bytes among them, so any text can be written. Returns the rows an embedding table needs."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(ADDED),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_without_marks(texts), trainer)
    inner.add_special_tokens([AddedToken(token, special=True) for token in ADDED])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=IM_END, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    ).save_pretrained(str(folder))
    return int(inner.get_vocab_size())


def _without_marks(texts: Iterable[str]) -> Iterable[str]:
    """Marks are tokens of their own and must not be learnt as words."""
    for text in texts:
        for mark in (*ADDED, Mark.REGION.value):
            text = text.replace(mark, "")
        yield text
