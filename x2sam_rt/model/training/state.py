"""A training run on disk: enough of it to go on as if it had never stopped."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from x2sam_rt.errors import TrainingError
from x2sam_rt.media.atomic import atomic_file

STATE_FILE = "state.pt"
_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError)


@dataclass(frozen=True)
class Progress:
    """steps: done so far. seconds: they took, over all resumptions."""

    steps: int = 0
    seconds: float = 0.0


class TrainingState:
    """What a run moves: modules by name, and their optimiser.

    Parameters that need no gradient when this is made never move; they are not stored, since whoever resumes makes
    the same model again. recipe: says what the run is; a run of another one is not resumed.
    """

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, recipe: str) -> None:
        self._modules, self._optimizer, self._recipe = modules, optimizer, recipe
        self._frozen = {name: _frozen(module) for name, module in modules.items()}

    def save(self, folder: Path, progress: Progress) -> None:
        """Written beside and renamed: a kill leaves the state before or after, never half of one."""
        state = {
            name: {key: value for key, value in module.state_dict().items() if key not in self._frozen[name]}
            for name, module in self._modules.items()
        }
        with atomic_file(folder / STATE_FILE) as temporary:
            torch.save(
                {**state, "optimizer": self._optimizer.state_dict(), "recipe": self._recipe, **vars(progress)},
                temporary,
            )

    def load(self, folder: Path) -> Progress:
        """Puts a saved state back. Raises TrainingError when there is none, it is damaged, or another run's."""
        path = folder / STATE_FILE
        state = _read(path)
        found = state.get("recipe", self._recipe)
        if found != self._recipe:
            raise TrainingError(
                f"{path} is the state of another run: {found}. Asked for was: {self._recipe}. Resume it as it was "
                "begun, or train into another folder."
            )
        try:
            for name, module in self._modules.items():
                self._put_back(name, module, state[name])
            self._optimizer.load_state_dict(state["optimizer"])
            return Progress(int(state["steps"]), float(state["seconds"]))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path} does not fit this recipe's model: {error}. Train into another folder."
            ) from error

    def _put_back(self, name: str, module: nn.Module, stored: Mapping[str, Any]) -> None:
        missing, unexpected = module.load_state_dict(dict(stored), strict=False)
        differ = sorted((set(missing) - self._frozen[name]) | set(unexpected))
        if differ:
            raise KeyError(f"{len(differ)} tensors of the {name} are missing or foreign ({differ[:5]} …)")


def _frozen(module: nn.Module) -> frozenset[str]:
    named = module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(f"{path}: there is nothing to resume. Start without --resume.")
    try:
        # weights_only refuses every pickle that would run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise TrainingError(
            f"{path} is no readable training state ({type(error).__name__}: {error}). It was damaged or is another "
            "program's; train into another folder."
        ) from error
    if not isinstance(state, dict):
        raise TrainingError(f"{path} holds a {type(state).__name__}, no training state. Train into another folder.")
    return state
