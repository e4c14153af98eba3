"""An original SAM 2.1 image encoder against our mask encoder, on the same random weights."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from recordings import RANDOM_TOY
from safetensors.torch import save_file

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import CheckpointError
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.checkpoint.sam2 import read_sam2_encoder
from x2sam_rt.model.mask_encoder import MaskEncoder

pytest.importorskip("sam2", reason="needs sam2: pip install sam2, or --no-deps with hydra-core, iopath")
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine


def original(config: ModelConfig) -> Any:
    """The package's own modules, put together as its configuration of SAM 2.1 does."""
    encoder = config.mask_encoder
    trunk = Hiera(
        embed_dim=encoder.embed_dims[0],
        num_heads=encoder.heads[0],
        stages=encoder.blocks,
        global_att_blocks=encoder.global_blocks,
        window_pos_embed_bkg_spatial_size=encoder.window_grid,
        window_spec=encoder.windows,
    )
    neck = FpnNeck(
        PositionEmbeddingSine(num_pos_feats=config.dim),
        d_model=config.dim,
        backbone_channel_list=list(reversed(encoder.embed_dims)),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    made = ImageEncoder(trunk, neck, scalp=1).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0, 0.1)
    return made


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    return original(load_checkpoint(RANDOM_TOY).config)


@pytest.fixture
def file(theirs: Any, tmp_path: Path) -> Path:
    """As published: under "model", with the parts that X2SAM has no use for."""
    tensors = {f"image_encoder.{name}": value for name, value in theirs.state_dict().items()}
    path = tmp_path / "sam2.1_hiera.pt"
    torch.save({"model": tensors | {"no_mem_embed": torch.zeros(1, 1, 4)}}, path)
    return path


def test_the_mask_encoder_computes_what_sam2_does(theirs: Any, file: Path) -> None:
    checkpoint = load_checkpoint(RANDOM_TOY, sam2=file)
    side = checkpoint.config.image_size
    frame = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pyramid, region_source = checkpoint.model.segmentor.encoder(frame)
        wanted = theirs(frame)["backbone_fpn"]
        third = theirs.trunk(frame)[2].permute(0, 2, 3, 1)
    for found, level in zip(pyramid, wanted, strict=True):
        assert (found - level).abs().max() <= 1e-5 * level.abs().max()
    assert (region_source - third).abs().max() <= 1e-5 * third.abs().max()


def test_published_widths_too(tmp_path: Path) -> None:
    """Two heads of 72 channels, windows of 16 and a 7×7 table of positions, as in SAM 2.1 large; fewer blocks."""
    config = tiny.untrained().model.config
    encoder = dataclasses.replace(PUBLISHED.mask_encoder, blocks=(1, 2, 3, 1), global_blocks=(4,))
    config = dataclasses.replace(config, image_size=256, dim=256, mask_encoder=encoder)
    torch.manual_seed(2)
    theirs = original(config)
    ours = MaskEncoder(config).eval()
    renamed = rename({f"image_encoder.{name}": value for name, value in theirs.state_dict().items()}, ours, tmp_path)
    ours.load_state_dict(renamed)
    frame = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        pyramid, _ = ours(frame)
        for found, level in zip(pyramid, theirs(frame)["backbone_fpn"], strict=True):
            assert (found - level).abs().max() <= 1e-5 * level.abs().max()


def rename(tensors: dict[str, torch.Tensor], ours: MaskEncoder, folder: Path) -> dict[str, torch.Tensor]:
    save_file(tensors, folder / "sam2.safetensors")
    prefix = "segmentor.encoder."
    shapes = {prefix + name: tuple(value.shape) for name, value in ours.state_dict().items()}
    read = read_sam2_encoder(folder / "sam2.safetensors", shapes)
    return {name.removeprefix(prefix): value for name, value in read.items()}


@pytest.mark.parametrize("damage", ["missing", "foreign", "shape"])
def test_another_encoder_is_refused(theirs: Any, tmp_path: Path, damage: str) -> None:
    tensors = {f"image_encoder.{name}": value for name, value in theirs.state_dict().items()}
    if damage == "missing":
        del tensors["image_encoder.trunk.pos_embed"]
    elif damage == "foreign":
        tensors["image_encoder.trunk.surplus"] = torch.zeros(1)
    else:
        tensors["image_encoder.neck.convs.0.conv.bias"] = torch.zeros(3)
    torch.save({"model": tensors}, tmp_path / "sam2.pt")
    with pytest.raises(CheckpointError, match=r"wanted the \d+ of the model's mask encoder"):
        load_checkpoint(RANDOM_TOY, sam2=tmp_path / "sam2.pt")


def test_code_in_it_is_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (flag,)

    (tmp_path / "sam2.pt").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(CheckpointError, match="weights-only"):
        load_checkpoint(RANDOM_TOY, sam2=tmp_path / "sam2.pt")
    assert not flag.exists()
