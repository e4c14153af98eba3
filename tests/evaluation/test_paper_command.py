"""`eval --table paper` on a folder in X2SAM's layout."""

from __future__ import annotations

import json
from pathlib import Path

from made_files import write_json, write_vgd_source
from recordings import FIXTURES
from typer.testing import CliRunner

from x2sam_rt.cli.app import app


def test_the_paper_as_far_as_it_is_there(onnx_bundle: Path, tmp_path: Path) -> None:
    recorded = json.loads((FIXTURES / "evaluation/vgd_yt19.json").read_text())
    datas = tmp_path / "datas"
    write_vgd_source("yt19", recorded, datas / "vid_vgdseg/ytvis_vgd")
    write_json(datas / "vid_vgdseg/ytvis_vgd/annotations/vid_vgdseg_yt19_val.json", recorded["built"][:1])
    command = ["eval", str(onnx_bundle), "--table", "paper", "--root", str(datas), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if "v-vgd-yt19 val/point" in line)
    assert row.split("│")[5].strip() not in ("", "–")
    assert "vid_genseg/vipseg_720p" in "".join(done.stdout.split())
    samples = tmp_path / "out/v-vgd-yt19_val_point/samples/onnxruntime_fp32/v-vgd-yt19.jsonl"
    first = samples.read_text()
    assert json.loads(first.splitlines()[1])["pieces"] == 2
    again = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert again.stdout.splitlines()[-20:] == done.stdout.splitlines()[-20:]
    assert samples.read_text() == first, "nothing was measured twice"
