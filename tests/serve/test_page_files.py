"""The page's files: built from the sources that are there, in the server's own protocol, with no way elsewhere."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import get_args

import httpx
import pytest
from serving import Served

from x2sam_rt.serve import messages
from x2sam_rt.serve.page import BUILT

WEB = Path(__file__).parents[2] / "web"
INSTALLED = (WEB / "node_modules").is_dir()
needs_npm = pytest.mark.skipif(not INSTALLED, reason="web/node_modules is not there: npm ci in web/ (make test-serve)")


def sources() -> dict[str, str]:
    paths = [WEB / name for name in ("index.html", "package-lock.json", "vite.config.ts")] + list(
        (WEB / "src").iterdir()
    )
    return {str(path.relative_to(WEB)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protocol", WEB / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_built_files_belong_to_the_sources() -> None:
    built = json.loads((BUILT / "built_from.json").read_text())
    assert built == sources(), "cd web && npm run build"


@needs_npm
def test_a_build_gives_the_files_that_are_there(tmp_path: Path) -> None:
    vite = WEB / "node_modules" / ".bin" / "vite"
    subprocess.run([vite, "build", "--outDir", tmp_path / "built", "--emptyOutDir"], cwd=WEB, check=True, timeout=120)
    assert contents(tmp_path / "built") == contents(BUILT), "cd web && npm run build"


@needs_npm
@pytest.mark.parametrize("script", ["check", "test"])
def test_types_style_and_what_both_languages_compute(script: str) -> None:
    assert shutil.which("npm"), "node_modules without npm"
    done = subprocess.run(["npm", "run", script], cwd=WEB, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_speaks_the_servers_protocol() -> None:
    module = generator()
    assert module.PROTOCOL.read_text() == module.protocol(), "python web/protocol.py"
    assert json.loads(module.VECTORS.read_text()) == json.loads(json.dumps(module.vectors())), "python web/protocol.py"
    assert get_args(get_args(messages.FromClient)[0]) == module.FROM_CLIENT
    assert get_args(get_args(messages.FromServer)[0]) == module.FROM_SERVER


def test_every_element_the_scripts_ask_for_is_there() -> None:
    there = set(re.findall(r'\bid="([\w-]+)"', (WEB / "index.html").read_text()))
    scripts = "".join(path.read_text() for path in (WEB / "src").glob("*.ts"))
    wanted = set(re.findall(r'\b(?:element|text)\("([\w-]+)"', scripts))
    assert len(wanted) > 20
    assert wanted <= there


def test_nothing_comes_from_elsewhere() -> None:
    for name, data in contents(BUILT).items():
        addresses = set(re.findall(rb"(?:https?:)?//[\w.-]+\.\w+", data)) - {b"http://www.w3.org"}  # a namespace
        assert not addresses, name
        assert b"<script>" not in data
        assert b" style=" not in data, name
        assert b"innerHTML" not in data, name


def test_the_server_gives_the_page_to_anyone_and_nothing_beside_it(served: Served) -> None:
    page = httpx.get(served.url + "/")
    assert page.status_code == 200
    assert page.content == (BUILT / "index.html").read_bytes()
    assert page.headers["cache-control"] == "no-cache"
    for name in re.findall(r"\./(assets/[^\"]+)", page.text):
        asset = httpx.get(f"{served.url}/{name}")
        assert asset.content == (BUILT / name).read_bytes()
        assert "immutable" in asset.headers["cache-control"]
        policy = asset.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert asset.headers["x-content-type-options"] == "nosniff"
    for path in ("/built_from.json", "/assets/..%2findex.html", "/assets/../page.py", "/assets/"):
        assert httpx.get(served.url + path).status_code == 404
    assert "/assets/{name}" not in httpx.get(served.url + "/openapi.json").json()["paths"]
