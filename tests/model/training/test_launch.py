from __future__ import annotations

import tiny
import torch
from safetensors import safe_open

from x2sam_rt.model.checkpoint import load_checkpoint
from x2sam_rt.model.training.launch import write_checkpoint


def test_a_written_checkpoint_is_the_model_in_bf16() -> None:
    model, tokenizer = tiny.untrained().model, tiny.untrained().folder
    write_checkpoint(model, tokenizer.parent)
    loaded = load_checkpoint(tokenizer.parent)
    assert loaded.tokenizer_folder == tokenizer
    assert loaded.model.config.to_json() == model.config.to_json()
    right = model.state_dict()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, right[name].bfloat16().float()), name
    with safe_open(loaded.path, "pt") as file:
        names = set(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert set(right) - names == {"vlm.lm_head.weight"}  # tied to the embedding
