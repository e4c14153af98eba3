"""The bundle of this version's schema, for later versions to be tested with: `python tests/make_bundle_fixture.py`.

Run it once, before SCHEMA in `x2sam_rt/runtime/bundle.py` is raised; never again for a schema that has one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from recordings import FIXTURES
from safetensors.torch import save_file
from tiny import untrained

from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.runtime.bundle import SCHEMA


def main() -> None:
    target = FIXTURES / "bundles" / f"schema_{SCHEMA}"
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name), untrained()
        tensors = {name: value.contiguous() for name, value in made.model.state_dict().items() if "lm_head" not in name}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(made.model.config.to_json()))
        shutil.copytree(made.folder, folder / "tokenizer")
        export_bundle(ExportPlan(load_checkpoint(folder), "torch", "bf16", verify=False), target)


if __name__ == "__main__":
    main()
