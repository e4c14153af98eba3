"""Fuzzing: `python tests/fuzz/fuzz.py [TARGET …] --seconds 60` (make fuzz: an hour over all of them).

Where atheris is installed (extra [fuzz]) it chooses the mutants by what they reach; otherwise they are drawn at random.
Every target runs in a process of its own. An error that is not promised, more than a second for one input, or more
than 2 GiB of memory ends it with the input in `tests/fuzz/found/`, which then belongs into `tests/fuzz/corpus/TARGET/`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

CORPUS, FOUND = HERE / "corpus", HERE / "found"
_MOST_SECONDS, _MOST_BYTES = 1.0, 2**31
_INSTRUMENTED = ["x2sam_rt.documents", "x2sam_rt.config", "x2sam_rt.tasks", "x2sam_rt.media", "x2sam_rt.runtime.bundle"]


def corpus(name: str) -> list[bytes]:
    """Inputs that were trouble once."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def run_random(name: str, seconds: float, seed: int, most: int | None = None) -> int:
    """Mutants of seeds and of mutants. Returns how many ran; an error that is not promised is raised, and kept."""
    from targets import TARGETS

    mutations, target, rng = importlib.import_module("mutate"), TARGETS[name], random.Random(seed)
    pool = [*target.seeds(), *corpus(name)]
    ran, until = 0, time.monotonic() + seconds
    while time.monotonic() < until and (most is None or ran < most):
        data = mutations.mutate(rng.choice(pool), rng, document=target.documents)
        run_one(name, data)
        if rng.random() < 0.02 and len(data) < 10**5 and len(pool) < 200:
            pool.append(data)
        ran += 1
    return ran


def run_one(name: str, data: bytes) -> None:
    """Raises for what is not promised, and keeps the input."""
    from targets import TARGETS

    target, began = TARGETS[name], time.process_time()
    try:
        with contextlib.suppress(*target.allowed):
            target.run(data)
        if time.process_time() - began > _MOST_SECONDS:
            raise TimeoutError(f"{time.process_time() - began:.1f} s for one input")
    except BaseException as error:
        if not isinstance(error, (KeyboardInterrupt, SystemExit)):
            _keep(name, data)
        raise


def _keep(name: str, data: bytes) -> None:
    FOUND.mkdir(exist_ok=True)
    (FOUND / f"{name}-{abs(hash(data)):x}").write_bytes(data)


def run_guided(name: str, seconds: float, seed: int) -> None:
    """With atheris, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from targets import TARGETS

    mutations = importlib.import_module("mutate")
    target = TARGETS[name]
    seeds = FOUND / "seeds" / name
    seeds.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*target.seeds(), *corpus(name)]):
        (seeds / str(number)).write_bytes(data)

    def mutant(data: bytes, most: int, seed: int) -> bytes:
        return mutations.mutate(data, random.Random(seed), document=target.documents)[:most]

    options = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-rss_limit_mb={_MOST_BYTES >> 20}"]
    options += [
        "-max_len=65536",
        "-verbosity=0",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND}/{name}-",
        str(seeds),
    ]
    atheris.Setup([sys.argv[0], *options], lambda data: run_one(name, data), custom_mutator=mutant)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=360, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--here", action="store_true", help="in this process; one target")
    options = parser.parse_args()
    if not options.here:
        return max(_in_a_process(name, options) for name in options.targets or _names())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (name,) = options.targets
    guided = not options.random
    if guided:
        try:
            run_guided(name, options.seconds, options.seed)
        except ModuleNotFoundError:
            guided = False
    began = time.monotonic()
    ran = run_random(name, options.seconds, options.seed)
    print(f"{name}: {ran:,} inputs in {time.monotonic() - began:.0f} s")
    return 0


def _names() -> list[str]:
    from targets import TARGETS

    return [*TARGETS, "media"]


def _in_a_process(name: str, options: argparse.Namespace) -> int:
    if name == "media":
        from media import fuzz_media

        return fuzz_media(options.seconds, options.seed)
    command = [sys.executable, __file__, name, "--here", "--seconds", str(options.seconds), "--seed", str(options.seed)]
    done = subprocess.run([*command, *["--random"] * options.random])
    if done.returncode < 0:
        print(f"{name}: ended by {signal.Signals(-done.returncode).name}")
    return abs(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
