"""The image encoder of an original SAM 2.1 checkpoint, under the names of our mask encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from x2sam_rt.errors import CheckpointError
from x2sam_rt.model.checkpoint.files import read_tensor_file

_THEIRS, _OURS = "image_encoder.", "segmentor.encoder."
# Parts of names, in the order they are replaced.
_RENAMED = (
    ("trunk.", "backbone."),
    ("patch_embed.proj.", "patch_embed.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".mlp.layers.0.", ".mlp.proj_in."),
    (".mlp.layers.1.", ".mlp.proj_out."),
    (".conv.", "."),
)


def read_sam2_encoder(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of the mask encoder from a SAM 2.1 file (`sam2.1_hiera_large.pt`), mapped, under our names.

    shapes: of the model's weights. Raises CheckpointError when the file is no such checkpoint, or its encoder has not
    exactly the model's names and shapes; nothing in it is executed.
    """
    stored = read_tensor_file(path)
    taken = {_renamed(name): value for name, value in stored.items() if name.startswith(_THEIRS)}
    wanted = {name: shape for name, shape in shapes.items() if name.startswith(_OURS)}
    if {name: tuple(value.shape) for name, value in taken.items()} != wanted:
        raise CheckpointError(_misfit(path, taken, wanted))
    return taken


def _renamed(name: str) -> str:
    name = name.removeprefix(_THEIRS)
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return _OURS + name


def _misfit(path: Path, taken: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> str:
    missing, foreign = sorted(wanted.keys() - taken.keys()), sorted(taken.keys() - wanted.keys())
    misshaped = [name for name, shape in wanted.items() if name in taken and tuple(taken[name].shape) != shape]
    return (
        f"{path}: found {len(taken)} tensors under {_THEIRS!r}, wanted the {len(wanted)} of the model's mask encoder "
        f"(missing {missing[:3]}, foreign {foreign[:3]}, of another shape {misshaped[:3]}). Pass the SAM 2.1 "
        "checkpoint of the size the model was trained with (published: sam2.1_hiera_large.pt)."
    )
