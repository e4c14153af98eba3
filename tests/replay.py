"""Replays a folder of recordings and prints the largest error of every recorded output; exit 1 when out of bounds.

    python tests/replay.py FOLDER --backend torch|onnxruntime [--streaming]

Without --streaming the engines are called stage by stage, with the memory kept as a plain list; with it, every frame
goes through the pipeline and memory bank that a session uses. The recorded inputs are preprocessed already, so they
enter behind the preprocessing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from recordings import BOUNDS, Backend, Case, Comparison, as_float, read_cases
from rich.console import Console
from rich.table import Table
from torch import Tensor

from x2sam_rt.config import SCALES
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint
from x2sam_rt.model.key_value_cache import KeyValueCache
from x2sam_rt.model.preprocess import VisionInput
from x2sam_rt.model.prompt_encoder import (
    REGION_PLACE,
    LanguageStates,
    PromptEmbeddings,
    PromptEncoder,
    PromptTokens,
    deep_stack,
    prompt_tokens,
)
from x2sam_rt.model.region_sampler import region_map
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.decoding import GeneratedAnswer, GreedyDecoder
from x2sam_rt.runtime.engines.engine import Engine, Engines, run_once
from x2sam_rt.runtime.engines.towers import VisionTowerEngine
from x2sam_rt.runtime.growing_text import GrowingText
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.tasks.marks import parse_marks


class Replay:
    """One model on one backend, against its recordings."""

    def __init__(self, checkpoint: Checkpoint, engines: Engines, backend: Backend) -> None:
        self.backend, self.engines = backend, engines
        self.model = checkpoint.model
        self.config = self.model.config
        rows = self.config.language["text_config"]["vocab_size"]
        self.tokenizer = Tokenizer.load(checkpoint.tokenizer_folder, rows)
        self.encoder = PromptEncoder(self.model, VisionTowerEngine(engines.vision_encoder))

    @torch.inference_mode()
    def run(self, case: Case, *, streaming: bool) -> Comparison:
        comparison = Comparison(case)
        embeddings = self._language(case, comparison)
        if embeddings is None or case.output("class_logits") is None:
            return comparison
        predictions = (self._stream if streaming else self._stage_by_stage)(case, embeddings, comparison)
        if self.backend == "torch":
            self._inside(case, comparison)
        comparison.add("class_logits", torch.stack([classes for classes, _ in predictions]))
        masks = torch.stack([masks for _, masks in predictions])
        side = self.config.image_size
        comparison.add("mask_logits_upsampled", F.interpolate(masks, size=(side, side), mode="bilinear"))
        return comparison

    def _language(self, case: Case, comparison: Comparison) -> PromptEmbeddings | None:
        encoder, question = self.encoder, parse_marks(case.question)
        pairs, height, width = case.input("grid_thw")[0].tolist()
        patches = case.input("pixel_patches")
        visual = encoder.see(VisionInput(patches.view(pairs, height * width, -1), height, width))
        comparison.add("vision_tokens", visual.tokens)
        for level, features in enumerate(visual.deepstack):
            comparison.add(f"vision_deepstack.{level}", features)
        regions = self._regions(case, comparison)
        generated = case.output("generated_ids")
        written = parse_marks(case.answer) if generated is None and case.answer is not None else None
        prompt = prompt_tokens(self.tokenizer, case.media, *visual.grid, question, written)
        _check_ids(prompt, case)
        embeds = encoder.embed(prompt.ids, visual, regions)
        cache = encoder.language.new_cache(encoder.language.max_context)
        states = encoder.language.prefill(cache, embeds, deep_stack(prompt.ids, visual))
        comparison.add("last_hidden" if generated is None else "prompt_last_hidden", states)
        ids = prompt.ids.tolist()
        if generated is not None:
            answer, grown = self._answer(case, prompt, states, cache, len(generated[0]))
            comparison.add("generated_ids", torch.tensor(answer))
            comparison.add("generated_last_hidden", grown)
            ids, states = ids + answer, torch.cat((states, grown))
        return self._embeddings(ids, states, prompt, comparison)

    def _answer(
        self, case: Case, prompt: PromptTokens, states: Tensor, cache: KeyValueCache, limit: int
    ) -> tuple[list[int], Tensor]:
        """The tokens and the states of all but the last: forced ones are fed, others are generated as they were."""
        language = self.encoder.language
        if case.answer is not None:
            ids = [*self.tokenizer.encode_marked(parse_marks(case.answer)), self.tokenizer.im_end]
            fed = language.embed(torch.tensor(ids[:-1]))
            return ids, torch.cat([language.prefill(cache, token) for token in fed.split(1)])
        known = LanguageStates(torch.arange(len(states)), states)
        answer = GeneratedAnswer(self.tokenizer, prompt, known, GrowingText(self.tokenizer, (), None), limit)
        GreedyDecoder(language, cache, None).write(answer)
        written = answer.finish()
        ids = written.ids[len(states) :]
        return ids, written.states.values[len(states) :][: len(ids) - 1]

    def _embeddings(
        self, ids: list[int], states: Tensor, prompt: PromptTokens, comparison: Comparison
    ) -> PromptEmbeddings | None:
        every = LanguageStates(torch.arange(len(states)), states)
        embeddings = self.encoder.read(ids, every, prompt.answer_start, self.tokenizer)
        if embeddings is not None:
            comparison.add("seg_embeds", embeddings.seg)
            comparison.add("cond_embeds", embeddings.conditions)
            comparison.add("embed_masks", torch.ones(len(embeddings.conditions)))
            comparison.add("token_embeds", embeddings.tokens)
            comparison.add("token_masks", torch.ones(len(embeddings.tokens)))
        return embeddings

    def _regions(self, case: Case, comparison: Comparison) -> Tensor | None:
        source = self._call(self.engines.frame_encoder, frame=case.input("frames")[:1], first=as_float(True))
        comparison.add("region_map", region_map(source["region_source"], self.model.extra_projector))
        if "input.region_masks" not in case.tensors:
            return None
        tokens = self.encoder.look_at_regions(source["region_source"], case.input("region_masks"))
        comparison.add("region_tokens", tokens)
        return tokens

    def _stream(self, case: Case, prompt: PromptEmbeddings, comparison: Comparison) -> list[tuple[Tensor, Tensor]]:
        pipeline = Pipeline(self.engines, self.config)
        predictions = []
        for index, frame in enumerate(case.input("frames")):
            slot = pipeline.bank.slot(pipeline.bank.next_slot)
            prediction = pipeline.step(frame[None], prompt)
            features = pipeline.features
            conditioned = pipeline.conditioned if index else features.pixel
            self._compare_frame(comparison, index, features.pixel, features.mask, features.region_source)
            self._compare_result(comparison, index, conditioned, prediction, slot)
            predictions.append((prediction.class_logits.clone(), prediction.mask_logits.clone()))
        return predictions

    def _stage_by_stage(
        self, case: Case, prompt: PromptEmbeddings, comparison: Comparison
    ) -> list[tuple[Tensor, Tensor]]:
        engines, predictions, memory = self.engines, [], list[Tensor]()
        for index, frame in enumerate(case.input("frames")):
            encoded = self._call(engines.frame_encoder, frame=frame[None], first=as_float(index == 0))
            pixel = {name: encoded[name] for name in SCALES}
            live = memory[-self.config.memory.slots :]
            conditioned = pixel
            if live:
                frame_offsets = torch.arange(len(live), 0, -1, dtype=torch.float32)
                attended = self._call(
                    engines.memory_attention, **pixel, memory=torch.stack(live), frame_offsets=frame_offsets
                )
                conditioned = {name: attended[f"conditioned_{name}"] for name in SCALES}
            decoded = self._call(
                engines.mask_decoder,
                **conditioned,
                mask_features=encoded["mask_features"],
                seg=prompt.seg,
                conditions=prompt.conditions,
                condition_mask=torch.ones(len(prompt.conditions), dtype=torch.bool),
                tokens=prompt.tokens,
                token_mask=torch.ones(len(prompt.tokens), dtype=torch.bool),
            )
            prediction = MaskPrediction(**decoded)
            slot = self._call(
                engines.memory_encoder,
                **pixel,
                mask_logits=prediction.mask_logits,
                class_logits=prediction.class_logits,
            )["slot"]
            memory.append(slot)
            self._compare_frame(
                comparison, index, tuple(pixel.values()), encoded["mask_features"], encoded["region_source"]
            )
            self._compare_result(comparison, index, tuple(conditioned.values()), prediction, slot)
            predictions.append((prediction.class_logits, prediction.mask_logits))
        return predictions

    def _compare_frame(
        self, comparison: Comparison, index: int, pixel: tuple[Tensor, ...], mask: Tensor, source: Tensor
    ) -> None:
        for scale, features in enumerate(pixel):
            comparison.add(f"frame{index}.pixel_features.{scale}", features)
        comparison.add(f"frame{index}.mask_features", mask)
        comparison.add(f"frame{index}.region_source", source)

    def _compare_result(
        self,
        comparison: Comparison,
        index: int,
        conditioned: tuple[Tensor, ...],
        prediction: MaskPrediction,
        slot: Tensor,
    ) -> None:
        for scale, features in enumerate(conditioned):
            comparison.add(f"frame{index}.memory_attention.{scale}", features[0].flatten(1).T)
            comparison.add(f"frame{index}.memory.{scale}", slot[scale].T)
        comparison.add(f"frame{index}.mask_logits", prediction.mask_logits)
        comparison.add(f"frame{index}.query_states", prediction.query_states)

    def _inside(self, case: Case, comparison: Comparison) -> None:
        """What no engine gives away: the encoder's pyramid and the memory's constant position map."""
        segmentor = self.model.segmentor
        position = segmentor.memory_attention.memory_position.T
        for index, frame in enumerate(case.input("frames")):
            pyramid, _ = segmentor.encoder(frame[None])
            for level, features in enumerate(pyramid):
                comparison.add(f"frame{index}.fpn.{level}", features)
                comparison.add(f"frame{index}.memory_pos.{level}", position)

    @staticmethod
    def _call(engine: Engine, **inputs: Tensor) -> dict[str, Tensor]:
        return run_once(engine, {name: tensor.contiguous() for name, tensor in inputs.items()})


def _check_ids(prompt: PromptTokens, case: Case) -> None:
    """The token sequence must be the recorded one (which has one place per region, ours one per region token)."""
    recorded: list[int] = []
    for token in case.input("input_ids")[0].tolist():
        recorded += [token] * (64 if token == REGION_PLACE else 1)
    assert prompt.ids.tolist() == recorded, f"{case.name}: tokens differ:\n{prompt.ids.tolist()}\n{recorded}"


def print_comparison(console: Console, comparison: Comparison, backend: Backend) -> None:
    table = Table("output", "largest error", title=comparison.case.name)
    for name, error in sorted(comparison.errors.items()):
        iou = comparison.ious.get(name)
        table.add_row(name, f"{error:.2e}" + ("" if iou is None else f"   IoU {iou:.5f}"))
    for name in comparison.untouched():
        table.add_row(name, "not visible outside its engine" if backend != "torch" else "NOT COMPARED")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backend", choices=list(BOUNDS), default="torch")
    parser.add_argument("--streaming", action="store_true")
    options = parser.parse_args()
    console, failures = Console(width=100), list[str]()
    base = options.folder / "vlm"
    checkpoint = load_checkpoint(options.folder, vlm=str(base) if base.is_dir() else None)
    with tempfile.TemporaryDirectory() as work:
        engines = build_engines(checkpoint.model, options.backend, Path(work))
        replay = Replay(checkpoint, engines, options.backend)
        for case in read_cases(options.folder):
            comparison = replay.run(case, streaming=options.streaming)
            print_comparison(console, comparison, options.backend)
            failures += [f"{case.name}: {name}" for name in comparison.failures(options.backend)]
            if options.backend == "torch":
                failures += [f"{case.name}: {name} was not compared" for name in comparison.untouched()]
    for failure in failures:
        console.print(f"[red]out of bounds[/red] {failure}")
    console.print(f"{options.backend}: {'FAILED' if failures else 'all recorded outputs within bounds'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
