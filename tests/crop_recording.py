"""Makes the small recording the tests need out of a full one.

    python tests/crop_recording.py SOURCE tests/fixtures/postprocess

Both without endings. Keeps one case per task, its first frames, and, where a rule looks at each query by itself, only
the queries that can matter; every tensor that stays is unchanged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

# Case → how many frames, and which queries (none named = all).
KEEP: dict[str, tuple[int, list[int]]] = {
    "vid_genseg_panoptic": (2, [0, 1, 3, 4, 5, 7, 8, 9]),
    "img_genseg_semantic": (1, []),
    "img_genseg_instance": (1, []),
    "img_refseg": (1, [4, 5]),
    "img_reaseg": (1, [4, 5]),
    "img_gcgseg": (1, [0, 4, 5, 8]),
    "img_vgdseg": (1, []),
    "img_intseg": (1, [2, 6]),
    "vid_objseg": (2, [2, 5, 6]),
}


def crop(source: str, target: str) -> None:
    document = json.loads(Path(source + ".json").read_text(encoding="utf-8"))
    tensors = load_file(source + ".safetensors")
    document["cases"] = {name: _entry(document["cases"][name], frames) for name, (frames, _) in KEEP.items()}
    kept: dict[str, Tensor] = {}
    for name, (frames, queries) in KEEP.items():
        kept |= _case_tensors(tensors, name, frames, queries)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target + ".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    save_file(kept, target + ".safetensors")


def _entry(entry: dict[str, object], frames: int) -> dict[str, object]:
    segments = entry["segments"]
    assert isinstance(segments, list)
    return entry | {"frames": frames, "segments": segments[:frames]}


def _case_tensors(tensors: dict[str, Tensor], name: str, frames: int, queries: list[int]) -> dict[str, Tensor]:
    kept = {}
    for key, tensor in tensors.items():
        case, kind, rest = key.split(".", 2)
        if case != name or (kind == "output" and int(rest.split(".")[0]) >= frames):
            continue
        if rest in ("mask_logits", "class_logits"):
            tensor = tensor[:frames]
            tensor = tensor[:, queries] if queries else tensor
        kept[key] = tensor.contiguous().clone()
    return kept


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    crop(sys.argv[1], sys.argv[2])
