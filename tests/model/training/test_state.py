from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from x2sam_rt.errors import TrainingError, VideoError
from x2sam_rt.model.training.state import STATE_FILE, Progress, TrainingState


def modules(width: int = 3) -> dict[str, nn.Module]:
    return {"model": nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1)), "heads": nn.Linear(1, 1)}


def state(parts: dict[str, nn.Module], recipe: str = "this run") -> TrainingState:
    learnable = [p for part in parts.values() for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnable, lr=0.1)
    sum(p.square().sum() for p in learnable).backward()  # type: ignore[union-attr]
    optimizer.step()
    return TrainingState(parts, optimizer, recipe)


def weights(parts: dict[str, nn.Module]) -> list[torch.Tensor]:
    return [value.clone() for part in parts.values() for value in part.state_dict().values()]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved, loaded = modules(), modules()
    state(saved).save(tmp_path, Progress(7, 1.5))
    assert state(loaded).load(tmp_path) == Progress(7, 1.5)
    assert all(torch.equal(a, b) for a, b in zip(weights(saved), weights(loaded), strict=True))


def test_what_never_moves_is_not_stored(tmp_path: Path) -> None:
    saved, loaded = modules(), modules()
    for parts in (saved, loaded):
        parts["model"].get_submodule("0").requires_grad_(False)
    state(saved).save(tmp_path, Progress())
    stored = torch.load(tmp_path / STATE_FILE, weights_only=True)["model"]
    assert set(stored) == {"1.weight", "1.bias"}
    before = loaded["model"].get_submodule("0").weight.clone()
    state(loaded).load(tmp_path)
    assert torch.equal(loaded["model"].get_submodule("0").weight, before)
    assert torch.equal(loaded["model"].get_submodule("1").weight, saved["model"].get_submodule("1").weight)


class Code:
    """A pickle of it runs code when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"model": Code(trace)}, tmp_path / STATE_FILE)
        with pytest.raises(TrainingError, match="no readable training state"):
            state(modules()).load(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_damaged_state_is_refused(tmp_path: Path, kept: float) -> None:
    state(modules()).save(tmp_path, Progress(3))
    path = tmp_path / STATE_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(TrainingError, match="no readable training state"):
        state(modules()).load(tmp_path)


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "does not fit this recipe's model: 'model'"),
        ({"model": {}, "heads": {}}, "4 tensors of the model are missing or foreign"),
        ({"model": 3, "heads": {}}, "does not fit"),
        ({"recipe": "another"}, "state of another run: another. Asked for was: this run"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path: Path, foreign: object, message: str) -> None:
    torch.save(foreign, tmp_path / STATE_FILE)
    with pytest.raises(TrainingError, match=message):
        state(modules()).load(tmp_path)


def test_another_models_state_is_refused(tmp_path: Path) -> None:
    state(modules(width=3)).save(tmp_path, Progress(3))
    with pytest.raises(TrainingError, match="size mismatch"):
        state(modules(width=4)).load(tmp_path)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        state(modules()).load(tmp_path)


def test_a_folder_that_cannot_take_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"state\.pt"):
        state(modules()).save(tmp_path / "none", Progress())
