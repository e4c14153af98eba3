"""A tokenizer for a model trained from nothing: bytes and the most common words, in Qwen's chat format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from x2sam_rt.model.tokenizer import (
    ADDED,
    END_OF_TEXT,
    IM_END,
    IM_START,
    VISION_END,
    VISION_START,
)
from x2sam_rt.tasks.marks import Mark

_SPECIAL = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


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
