"""Fuzzing: `python tests/fuzz/fuzz.py [TARGET …] --seconds 60` (make fuzz: an hour over all of them).

Where atheris is installed (extra [fuzz]) it chooses the mutants by what they reach; otherwise, and with --random, they
are drawn at random. Every target runs in a process of its own. An error that is not promised, a crash, more than a
second for one input or more than twice the memory it honestly needs (`Target.need`) leaves the input in
`tests/fuzz/found/`; it then belongs into `tests/fuzz/corpus/TARGET/`. --result FILE keeps the counts.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import inspect
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType

from limits import Limits, Progress

HERE = Path(__file__).parent
CORPUS, FOUND = HERE / "corpus", HERE / "found"
_MOST_ADDRESSES = 8 * 2**30  # FFmpeg's threads reserve much and use little
_MOST_FOUND = 20  # of one target, in one run
_MOST_WORK = 30.0  # seconds of work within one input, after which its process is ended
_LONGEST = 10**4  # bytes of a mutant that is mutated further
_INSTRUMENTED = (
    *("x2sam_rt.documents", "x2sam_rt.config", "x2sam_rt.tasks", "x2sam_rt.media", "x2sam_rt.runtime.bundle"),
    *("x2sam_rt.model.tokenizer", "x2sam_rt.model.checkpoint", "json", "torch._weights_only_unpickler"),
)


@dataclass
class Counts:
    """One target's run. chosen: how mutants are, by "coverage" or by "chance". found: inputs that were trouble."""

    target: str
    chosen: str
    executions: int = 0
    seconds: float = 0.0
    found: int = 0


def corpus(name: str) -> list[bytes]:
    """Inputs that were trouble once."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def runner(name: str, begin: Callable[[bytes], None] = lambda data: None) -> Callable[[bytes], None]:
    """Runs one input of a target; raises for what is not promised, and keeps the input. begin: told of each before."""
    from targets import TARGETS

    target = TARGETS[name]

    def call(data: bytes) -> None:
        with contextlib.suppress(*target.allowed):
            target.run(data)

    for data in [*target.seeds(), *corpus(name)]:  # what is imported and made at first use is no work of an input
        call(data)
    limits = Limits()

    def run_one(data: bytes) -> None:
        begin(data)
        try:
            limits.run(lambda: call(data), lambda: target.need(data))
        except Exception:
            _keep(name, data)
            raise

    return run_one


def _keep(name: str, data: bytes) -> None:
    FOUND.mkdir(exist_ok=True)
    (FOUND / f"{name}-{hashlib.blake2b(data, digest_size=8).hexdigest()}").write_bytes(data)


def run_random(name: str, run_one: Callable[[bytes], None], seconds: float, seed: int, most: int | None = None) -> int:
    """Mutants of seeds and of mutants. Returns how many ran."""
    from targets import TARGETS

    mutations, target, rng = importlib.import_module("mutate"), TARGETS[name], random.Random(seed)
    pool = [*target.seeds(), *corpus(name)]
    ran, until = 0, time.monotonic() + seconds
    while time.monotonic() < until and (most is None or ran < most):
        data = mutations.mutate(rng.choice(pool), rng, document=target.documents)
        run_one(data)
        if rng.random() < 0.02 and len(data) < _LONGEST and len(pool) < 200:
            pool.append(data)
        ran += 1
    return ran


def run_guided(name: str, begin: Callable[[bytes], None], options: argparse.Namespace) -> None:
    """With atheris, which ends the process."""
    import atheris
    from targets import TARGETS

    for function in _functions(_INSTRUMENTED):
        atheris.instrument_func(function)
    mutations, target = importlib.import_module("mutate"), TARGETS[name]
    seeds = options.work / f"seeds-{options.seed}"
    seeds.mkdir()
    for number, data in enumerate([*target.seeds(), *corpus(name)]):
        (seeds / str(number)).write_bytes(data)

    def mutant(data: bytes, most: int, seed: int) -> bytes:
        return mutations.mutate(data, random.Random(seed), document=target.documents)[:most]

    chosen = [f"-max_total_time={int(options.seconds) or 1}", f"-seed={options.seed + 1}", f"-max_len={_LONGEST}"]
    chosen += ["-verbosity=0", "-rss_limit_mb=0", f"-artifact_prefix={options.work}/", str(seeds)]
    chosen += [] if options.executions is None else [f"-runs={options.executions}"]
    atheris.Setup([sys.argv[0], *chosen], runner(name, begin), custom_mutator=mutant)
    atheris.Fuzz()


def _functions(modules: tuple[str, ...]) -> list[FunctionType]:
    """Of modules that are imported, and of those inside them. atheris's own hook for imports passes over editable
    installs."""
    found = [module for name, module in tuple(sys.modules.items()) if f"{name}.".startswith(_dotted(modules))]
    spaces = [space for module in found for space in (module, *filter(inspect.isclass, vars(module).values()))]
    own = {module.__name__ for module in found}
    functions = [value for space in spaces for value in vars(space).values() if inspect.isfunction(value)]
    return list({id(one.__code__): one for one in functions if one.__module__ in own}.values())


def _dotted(modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in modules)


def fuzz_here(name: str, options: argparse.Namespace) -> None:
    """In this process, until an input is trouble."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
    warnings.simplefilter("ignore")
    progress = Progress(options.work / "progress")
    if options.random:
        run_random(name, runner(name, progress.begin), options.seconds, options.seed, options.executions)
    else:
        run_guided(name, progress.begin, options)


def fuzz(name: str, seconds: float, seed: int, executions: int | None = None, *, chance: bool = True) -> Counts:
    """One target in processes of its own, begun anew after each input that was trouble. chance: without atheris."""
    counts = Counts(name, "chance" if chance else "coverage")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        progress = Progress(Path(work) / "progress")
        while counts.found < _MOST_FOUND:
            counts.seconds, counts.executions = time.monotonic() - began, progress.count
            rest = None if executions is None else executions - counts.executions
            if counts.seconds >= seconds or (rest is not None and rest <= 0):
                break
            command = [sys.executable, __file__, name, "--work", work, "--seconds", str(seconds - counts.seconds)]
            command += ["--seed", str(seed + counts.found), *["--random"] * chance]
            command += [] if rest is None else ["--executions", str(rest)]
            if (trouble := _watched(command, progress)) is None:
                counts.seconds, counts.executions = time.monotonic() - began, progress.count
                break
            counts.found += 1
            _keep(name, progress.last)
            print(f"{name}: {trouble}", file=sys.stderr)
    return counts


def _watched(command: list[str], progress: Progress) -> str | None:
    """What the process ended of; None where it went through. Without progress it is ended."""
    import psutil

    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
        count, worked = progress.count, 0.0
        while process.poll() is None:
            with contextlib.suppress(psutil.Error, subprocess.TimeoutExpired):
                process.wait(0.2)
                continue
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(process.pid).cpu_times()
                if progress.count != count or count == 0:
                    count, worked = progress.count, times.user + times.system
                elif times.user + times.system - worked > _MOST_WORK:
                    process.kill()
        told.seek(0)
        lines = told.read().decode(errors="replace").strip().splitlines()
    if process.returncode == 0:
        return None
    error = next((line for line in reversed(lines) if "Error" in line or "ERROR" in line), "")
    return f"ended with {process.returncode}: {error[:300]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=360, help="of each target at most")
    parser.add_argument("--executions", type=int, help="of each target at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--result", type=Path, help="JSON file whose rows of these targets are replaced")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # of the process that does the work
    options = parser.parse_args()
    if options.work is not None:
        fuzz_here(options.targets[0], options)
        return 0
    chance, found = options.random or not _has_atheris(), 0
    for name in options.targets or _names():
        counts = fuzz(name, options.seconds, options.seed, options.executions, chance=chance)
        print(
            f"{name}: {counts.executions:,} inputs by {counts.chosen} in {counts.seconds:.0f} s, found {counts.found}"
        )
        found += counts.found
        if options.result is not None:
            _write(options.result, counts)
    return int(found > 0)


def _write(path: Path, counts: Counts) -> None:
    from x2sam_rt.evaluation.results import this_machine, versions

    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    row = {**asdict(counts), "seconds": round(counts.seconds)}
    key = (counts.target, counts.chosen)
    rows = [other for other in rows if (other["target"], other["chosen"]) != key]
    content = {"machine": asdict(this_machine()), "versions": versions(), "rows": [*rows, row]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _names() -> list[str]:
    from targets import TARGETS

    return list(TARGETS)


if __name__ == "__main__":
    sys.exit(main())
