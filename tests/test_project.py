"""What the project says of itself outside its code, compared with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from x2sam_rt.errors import EXTRAS, MissingExtra, require_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINTERS = {"ruff", "mypy", "clang-format"}


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0]


def test_extras_are_those_of_the_package() -> None:
    optional = PROJECT["optional-dependencies"]
    core = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    for extra, packages in EXTRAS.items():
        listed = {name_of(requirement) for requirement in optional[extra]}
        assert set(packages) <= listed
        assert not set(packages) & core


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("plot", "train"):
        require_extra(extra)  # the suite has these
    monkeypatch.setattr("x2sam_rt.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        require_extra("train")
    assert "scipy, matplotlib is not installed" in str(caught.value)
    assert 'pip install "x2sam-rt[train]"' in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "toy", "-o", "run"], "train"),
        (["eval", "bundle", "-o", "results"], "plot"),
        (["profile", "bundle", "--video", "clip.mp4", "--picture", "profile.png"], "plot"),
        (["serve", "bundle"], "serve"),
    ],
)
def test_commands_ask_for_their_extra_before_they_begin(tmp_path: Path, arguments: list[str], extra: str) -> None:
    """In a process of its own, where the packages cannot be found."""
    hidden = "import sys; sys.modules.update(scipy=None, matplotlib=None, fastapi=None); "
    code = hidden + f"from x2sam_rt.cli.app import app; app({arguments})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 1
    assert f'pip install "x2sam-rt[{extra}]"' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_rest_is_imported_without_extras() -> None:
    """What asks for its extra as a whole stays out: training, V-VGD, serving, Triton's kernels, TensorRT's engines."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "x2sam_rt").rglob("*.py")]
    asking = re.compile(
        r"x2sam_rt\.(model\.training|data\.(make_vgd|visual_prompts)|serve\.|client|.*(triton|tensorrt))\b|.*tensorrt_"
    )
    rest = [module for module in modules if not asking.match(module)]
    packages = {package for extra in EXTRAS.values() for package in extra} | {"triton", "tensorrt_rtx", "tensorrt"}
    code = f"import sys; from importlib import import_module; sys.modules.update(dict.fromkeys({packages}))\n"
    code += f"for module in {rest}: import_module(module)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr


def test_linters_are_pinned_once_and_run_everywhere() -> None:
    pinned = {name_of(r) for r in PROJECT["optional-dependencies"]["test"] if "==" in r}
    assert pinned >= LINTERS
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {Path(hook["entry"].split()[0]) for hook in hooks} == {Path(".venv/bin") / linter for linter in LINTERS}
    made = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert set(re.findall(r"\$\(BIN\)/([\w-]+)", made)) == LINTERS


REQUIREMENTS = [*PROJECT["dependencies"], *(r for some in PROJECT["optional-dependencies"].values() for r in some)]
LOCKED = (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("requirement", [one for one in REQUIREMENTS if name_of(one) != "x2sam-rt"])
def test_every_requirement_has_an_upper_bound(requirement: str) -> None:
    specifier = Requirement(requirement).specifier
    assert any(one.operator in ("<", "<=", "==", "~=") for one in specifier), f"{requirement}: up to which version?"


def test_the_lock_holds_what_is_tested_within_its_bounds() -> None:
    """All of the suite's own but PyTorch. `make lock` makes it anew."""
    extras = PROJECT["optional-dependencies"]
    nested = Requirement(extras["test"][0]).extras
    tested = [*PROJECT["dependencies"], *extras["test"][1:], *(r for name in nested for r in extras[name])]
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCKED, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), []).append(version)
    for one in map(Requirement, tested):
        name = canonicalize_name(one.name)
        if name != "torch":
            assert name in locked, f"{name} is not locked: make lock"
            assert all(one.specifier.contains(version) for version in locked[name]), f"{one}: {locked[name]}: make lock"
    assert "torch" not in locked


def test_everything_locked_has_its_hashes() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", LOCKED, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_no_test_waits_for_a_process_without_end() -> None:
    """A suite that hangs tells nobody why."""
    for path in (ROOT / "tests").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "subprocess.run":
                assert "timeout" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}: timeout=?"


def test_license_and_types_are_shipped() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "x2sam_rt" / "py.typed").is_file()


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] in ("Unreleased", PROJECT["version"])
    assert PROJECT["version"] in versions


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def defined_in(path: Path) -> set[str]:
    """Names that a Python file defines or imports at its top."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_what_contributors_are_pointed_to_is_there() -> None:
    """Every path, and every name in brackets behind one."""
    text = " ".join(CONTRIBUTING.split())
    paths = re.findall(r"`([\w./-]+(?:\.\w+|/))`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    pointed = re.findall(r"`([\w./-]+\.py)` \((`[^)]+`)\)", text)
    assert len(pointed) > 10
    for path, names in pointed:
        missing = set(re.findall(r"`(\w+)`", names)) - defined_in(ROOT / path)
        assert not missing, f"{path} has no {missing}"


def test_contributors_commands_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", CONTRIBUTING)) - {"test"} <= set(targets)
    assert "test" in targets


SECURITY = (ROOT / "SECURITY.md").read_text()
PROMISED = (ROOT / "README.md").read_text().partition("## What it promises")[2].partition("\n## ")[0]


def test_every_promise_has_its_test() -> None:
    for text in (SECURITY, PROMISED):
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
        assert named
        for path, test in named:
            assert (ROOT / path).is_file(), path
            assert not test or test in defined_in(ROOT / path), f"{path} has no {test}"
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) >= 8
    assert all("::test_" in row or "tests/tasks/" in row for row in rows)
