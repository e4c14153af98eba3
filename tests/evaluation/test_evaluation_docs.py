"""docs/evaluation.md: its example runs, its tables are the code's. docs/language.md: one table is its results'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.data.readers import READERS
from x2sam_rt.evaluation.synthetic import synthetic_parts

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/evaluation.md").read_text()


def test_the_example_of_own_data_runs(
    torch_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(torch_bundle)
    clip = tmp_path / "clips/1"
    clip.mkdir(parents=True)
    generator = np.random.default_rng(0)
    np.save(clip / "frames.npy", generator.integers(0, 256, (3, 40, 51, 3), dtype=np.uint8))
    np.save(clip / "mask.npy", generator.random((3, 40, 51)) > 0.5)
    code = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert code is not None
    # In a module of its own, as dataclasses look theirs up.
    exec(compile(code[1], "docs/evaluation.md", "exec"), {"__name__": "__main__"})
    assert "J&F" in capsys.readouterr().out
    assert (tmp_path / "results/results.json").is_file()


def test_the_tables_name_what_there_is() -> None:
    for part in synthetic_parts():
        if not part.forget:
            kind = part.name.removesuffix(", images")
            assert re.search(
                rf"^\| [^|]*{re.escape(part.name)}[^|]*\| [^|]*{len(part.samples)} ", DOCUMENT, re.MULTILINE
            ), kind
    for name in READERS:
        assert f"`{name}`" in DOCUMENT


def test_the_policies_are_worth_what_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks/results/x2sam_toy/streams_asked_again.json").read_text())
    measured = {}
    for variant in results["variants"]:
        (part,) = variant["parts"]
        score, speed = part["scores"][0]["value"] * 100, part["speed"]
        measured[variant["ask"]] = [f"{score:.1f}", f"{speed['asking_mean_ms']:.1f}", f"{speed['frame_p50_ms']:.1f}"]
    table = (ROOT / "docs/language.md").read_text().partition("| policy | J&F |")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert {policy: figures for policy, *figures in rows} == measured
