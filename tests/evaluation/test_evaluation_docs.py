"""The example of docs/evaluation.md runs, and its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.data.readers import READERS
from x2sam_rt.evaluation.synthetic import synthetic_parts

DOCUMENT = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()


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
