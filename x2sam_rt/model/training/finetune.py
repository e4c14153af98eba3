"""Fine-tuning a trained model on data sets of one's own, or the paper's (X2SAM's two stages)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from x2sam_rt.errors import ConfigError
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.model.checkpoint.adapters import adapter_rank
from x2sam_rt.model.checkpoint.files import base_folder, read_tensor_file, read_tensor_folder
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint
from x2sam_rt.model.checkpoint.tensor_file import write_state
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.adapters import add_adapters, continue_adapters, merged_state_dict, training_state_dict
from x2sam_rt.model.training.launch import CHECKPOINT_FILE, Run, write_config
from x2sam_rt.model.training.losses import LossWeights
from x2sam_rt.model.training.mixture import Mixture
from x2sam_rt.model.training.recipe import Recipe, Stage
from x2sam_rt.model.training.sources import MASKS, Found, find_sources, read_source
from x2sam_rt.model.x2sam import X2SAM

RANK, ALPHA_PER_RANK = 128, 2.0  # X2SAM, stage 2: rank 128, alpha 256
_POINTS = 12544  # Mask2Former: places at which masks are compared
_WRAPPED = "vlm.base_model.model."
# What stage 2 trains besides the adapters: all that a training checkpoint holds.
TRAINED_WHOLE = (
    "segmentor.",
    "extra_projector.",
    "mlm_projector.",
    "bg_embeds.",
    "vlm.model.visual.merger.",
    "vlm.model.visual.deepstack_merger_list.",
    "vlm.model.language_model.embed_tokens.",
    "vlm.lm_head.",
)


@dataclass(frozen=True)
class FinetunePlan:
    """checkpoint, vlm, config, tokenizer: as `load_checkpoint` takes them. datasets: names of readers, or "paper" for
    the paper's mixture. root, split: as `find_sources` takes them. masks: folder of SA-1B's form that stage 1 learns
    from; None = the same data. decoder_steps: of stage 1, the mask decoder alone, class-agnostic; 0 leaves it out.
    steps: of stage 2, everything together. full: stage 2 trains all weights instead of adapters. rank, alpha: of the
    adapters; None = the checkpoint's own, or 128 and twice the rank. frames: of a clip. accumulate: examples of a step.
    accumulate_videos: of a step that learns from clips; None = as many, or 1 where there are images too (X2SAM).
    amp: bf16 autocast.

    Raises ConfigError for numbers out of range.
    """

    checkpoint: Path
    datasets: tuple[str, ...]
    root: Path
    split: str | None = None
    masks: Path | None = None
    vlm: str | None = None
    config: Path | None = None
    tokenizer: Path | None = None
    decoder_steps: int = 500
    steps: int = 2000
    learning_rate: float = 4e-5
    full: bool = False
    rank: int | None = None
    alpha: float | None = None
    frames: int = 8
    accumulate: int = 4
    accumulate_videos: int | None = None
    amp: bool = False
    device: str = "cpu"
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decoder_steps < 0 or self.steps < 0 or not self.decoder_steps + self.steps:
            raise ConfigError(f"{self.decoder_steps} and {self.steps} steps; wanted 0 or more, and not both 0.")
        if not self.datasets:
            raise ConfigError('No data set to learn from; name one, or "paper" for the paper\'s mixture.')
        if self.frames < 1:
            raise ConfigError(f"Clips of {self.frames} frames; wanted 1 or more.")
        if self.full and (self.rank is not None or self.alpha is not None):
            raise ConfigError("Training all weights takes no adapters; leave out rank and alpha, or full.")


class Finetuning:
    """A plan at work, in one process: makes the model and the recipe, and writes the result."""

    def __init__(self, plan: FinetunePlan) -> None:
        self.plan = plan
        self._on_base = False
        self.left_out: tuple[tuple[str, str], ...] = ()

    def run(self, folder: Path, recipe: Recipe, *, resume: bool) -> Run:
        """To be started: it leaves a checkpoint in the folder. recipe: what `make_recipe` returned."""
        return Run(folder, self.make_model, lambda _scale: recipe, resume=resume, write_result=self.write)

    def make_model(self, tokenizer: Path, _seed: int) -> X2SAM:
        """The loaded model, what may learn marked so, and its tokenizer written to a folder."""
        plan = self.plan
        checkpoint = load_checkpoint(plan.checkpoint, vlm=plan.vlm, config=plan.config, tokenizer=plan.tokenizer)
        model = checkpoint.model
        rows = int(model.config.language["text_config"]["vocab_size"])
        Tokenizer.load(checkpoint.tokenizer_folder, rows).save(tokenizer)
        _tie(model)
        if plan.full:
            return model.requires_grad_(True)
        self._adapt(checkpoint)
        for name, parameter in model.named_parameters():
            if name.startswith(TRAINED_WHOLE):
                parameter.requires_grad_(True)
        return model

    def _adapt(self, checkpoint: Checkpoint) -> None:
        """Goes on with the checkpoint's adapters, or adds new ones."""
        plan, model = self.plan, checkpoint.model
        tensors = read_tensor_file(checkpoint.path)
        found = adapter_rank(tensors)
        self._on_base = any(name.startswith(_WRAPPED) for name in tensors)
        if found is None:
            rank = RANK if plan.rank is None else plan.rank
            alpha = ALPHA_PER_RANK * rank if plan.alpha is None else plan.alpha
            add_adapters(model, rank, alpha, torch.Generator().manual_seed(plan.seed))
            return
        scale = model.config.lora_scale
        if plan.rank not in (None, found) or plan.alpha not in (None, found * scale):
            raise ConfigError(
                f"{checkpoint.path} has adapters of rank {found} and alpha {found * scale:g}, which learn on; found "
                f"rank {plan.rank} and alpha {plan.alpha}. Leave both out."
            )
        assert plan.vlm is not None, "load_checkpoint demands the base of adapters"
        continue_adapters(model, tensors, read_tensor_folder(base_folder(plan.vlm)))

    def make_recipe(self) -> Recipe:
        """Raises DataError for a data set that cannot be read; what of the paper's is not there is in `left_out`."""
        plan = self.plan
        found = find_sources(plan.datasets, plan.root, plan.split, plan.frames, plan.seed)
        self.left_out = found.left_out
        media = {source.media for source in found.sources}
        names = ", ".join(source.name for source in found.sources)
        return Recipe(
            name=f"{plan.checkpoint} on {names} {plan.split or 'train'}",
            stages=_stages(plan, found.mixture(plan.seed)),
            points=_POINTS,
            amp=plan.amp,
            save_every=plan.save_every,
            seed=plan.seed,
            accumulate=plan.accumulate,
            accumulate_videos=plan.accumulate_videos or (1 if len(media) > 1 else plan.accumulate),
            device=plan.device,
        )

    def write(self, model: X2SAM, folder: Path) -> None:
        """The trained weights as they are, fp32, for `load_checkpoint`: a training checkpoint for the same base if it
        came as one, otherwise a whole one."""
        learnt_on_base = self._on_base and not self.plan.full
        tensors = training_state_dict(model) if learnt_on_base else merged_state_dict(model)
        with atomic_file(folder / CHECKPOINT_FILE) as temporary:
            write_state(tensors, temporary)
        write_config(model, folder)


def _stages(plan: FinetunePlan, learn: Mixture) -> tuple[Stage, ...]:
    stages = []
    if plan.decoder_steps:
        masks_only = LossWeights(classification=0, next_token=0)
        stages.append(
            Stage(
                "mask decoder",
                _masks(plan) or learn,
                plan.decoder_steps,
                plan.learning_rate,
                trains=("segmentor.decoder.",),
                end_factor=0.1,
                warmup=plan.decoder_steps // 20,
                weights=masks_only,
            )
        )
    if plan.steps:
        stages.append(
            Stage("everything", learn, plan.steps, plan.learning_rate, end_factor=0.1, warmup=plan.steps // 20)
        )
    return tuple(stages)


def _masks(plan: FinetunePlan) -> Mixture | None:
    """What stage 1 learns from where it has data of its own."""
    if plan.masks is None:
        return None
    return Found((read_source(MASKS, plan.masks, None, plan.frames, plan.seed),)).mixture(plan.seed)


def _tie(model: X2SAM) -> None:
    """Loading parts what the configuration ties; where training has not parted it, it learns as one again."""
    head, embedding = model.vlm.lm_head, model.vlm.model.language_model.embed_tokens
    if model.config.language.get("tie_word_embeddings", False) and torch.equal(head.weight, embedding.weight):
        head.weight = embedding.weight
