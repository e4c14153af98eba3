"""Measures the GPU kernels: ceilings of the card, torch's attention backends by name, then ours. One call does it all.

    python benchmarks/gpu_attention.py              # on the GPU machine; needs torch, and no network
    python benchmarks/gpu_attention.py --dry-run    # anywhere: the same path on tiny shapes, on the CPU

Status: only dry-run so far; not yet run on a GPU.

Each group runs in a process of its own, under a time limit: a kernel that hangs or corrupts the context costs its
group, not the run. All together keep to --seconds; groups for which none is left are said to be left out. Results are
written to benchmarks/results/gpu_attention.json after every group; a short table is printed last. Times are medians of
CUDA events with a cold L2. Random data: zeros would run faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_cases as cases  # noqa: E402

from x2sam_rt.errors import X2SamError  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
BUILD = ROOT / "build/gpu-benchmark"
# Where every process finds it that imports the package from here, without an installation.
LIBRARY = ROOT / "x2sam_rt/libx2sam_cuda.so"
SOURCES = ROOT / "x2sam_rt/kernels/csrc/cuda"
NVCC = "nvcc -std=c++17 -O3 --expt-relaxed-constexpr -DNDEBUG -gencode arch=compute_90a,code=sm_90a -Xcompiler -fPIC"
PACKAGES = (
    "av",
    "numpy",
    "onnx",
    "onnxscript",
    "PIL",
    "pycocotools",
    "pytest",
    "rich",
    "transformers",
    "triton",
    "typer",
)
GROUP_LIMIT_S = 90
LEAST_GROUP_S = 10
SAMPLE_BUDGET_MS = 300.0
COLD_BYTES = 2**30  # written between samples; several times the L2
POISON_BYTES = 2**31
GROUPS = ("ceilings", "cuda", "sdpa", "fp8", "cudnn_slots", "triton", "triton_maps")  # most valuable first
# of torch and the kernels; anything else is a bug of this file and ends its group
FAILURES = (RuntimeError, ImportError, OSError, ValueError, AttributeError, X2SamError)


@dataclass(frozen=True)
class Row:
    """One measurement. rate: TFLOP/s, or GB/s for maps and copies. status: "ok", "WRONG …" or why it did not run."""

    group: str
    shape: str
    name: str
    status: str
    ms: float = math.nan
    rate: float = math.nan
    unit: str = "TFLOP/s"
    error: float = math.nan
    plain_error: float = math.nan
    kernels: tuple[str, ...] = ()


class Machine:
    """The device, or its stand-in for a dry run."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.device = "cpu" if tiny else "cuda"
        # the CPU's interpreter of Triton cannot do bfloat16
        self.dtype = torch.float32 if tiny else torch.bfloat16
        self._cold = torch.empty(0 if tiny else COLD_BYTES, dtype=torch.uint8, device=self.device)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Median over as many samples as the budget allows, at least 5, at most 50."""
        for _ in range(1 if self.tiny else 3):
            call()
        first = self._sample(call)
        count = 1 if self.tiny else max(5, min(50, int(SAMPLE_BUDGET_MS / max(first, 1e-3))))
        return statistics.median([first, *(self._sample(call) for _ in range(count))])

    def _sample(self, call: Callable[[], object]) -> float:
        if self.tiny:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._cold.zero_()  # also lets the host run ahead, so that launch gaps stay out of the time
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def poison(self) -> None:
        """Leaves NaN in the memory that the next results are written to: what is not written shows."""
        if not self.tiny:
            torch.cuda.empty_cache()
            torch.full((POISON_BYTES // 4,), math.nan, device=self.device)

    def kernels(self, call: Callable[[], object]) -> tuple[str, ...]:
        """Names of the device kernels a call runs, longest time first."""
        if self.tiny:
            return ()
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        events = sorted(profiler.key_averages(), key=lambda event: -float(getattr(event, "device_time_total", 0.0)))
        return tuple(event.key[:120] for event in events[:4])


def ceilings(machine: Machine) -> Iterator[Row]:
    side, elements = (64, 2**12) if machine.tiny else (8192, 2**31)
    left, right = (torch.randn(side, side, device=machine.device).to(machine.dtype) for _ in range(2))
    ms = machine.milliseconds(lambda: left @ right)
    yield Row("ceilings", str(side), "matmul", "ok", ms, 2 * side**3 / ms * 1e-9)
    source = torch.randint(0, 255, (elements,), dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    ms = machine.milliseconds(lambda: target.copy_(source))
    yield Row("ceilings", str(elements), "copy", "ok", ms, 2 * elements / ms * 1e-6, "GB/s")


def attention(group: str, machine: Machine) -> Iterator[Row]:
    """Checks the group's contenders on awkward shapes, then checks and times them on the model's."""
    contenders = {
        "sdpa": cases.sdpa_contenders, "cudnn_slots": cases.cudnn_slot_contenders, "cuda": cases.cuda_contenders,
        "fp8": cases.fp8_contenders, "triton": cases.triton_contenders,
    }[group]  # fmt: skip
    own = [] if group == "sdpa" else cases.awkward_shapes(machine.tiny)
    for timed, shape in [*((False, shape) for shape in own), *((True, shape) for shape in cases.shapes(machine.tiny))]:
        case = cases.problem(shape, machine.device, machine.dtype)
        try:
            for contender in contenders(case):
                yield run(group, machine, case, contender, timed)
        except FAILURES as error:
            yield Row(group, f"{shape.name} d{shape.dim}", group, reason(error))


def run(group: str, machine: Machine, case: cases.Problem, contender: cases.Contender, timed: bool) -> Row:
    where = case.shape.name if timed else f"{case.shape.name} d{case.shape.dim}"
    try:
        machine.poison()
        verdict = cases.judge(case, contender.call(), contender.exact)
        status = "ok" if verdict.ok else f"WRONG: error {verdict.error:.3g}, plain torch {verdict.plain_error:.3g}"
        ms = machine.milliseconds(contender.call) if timed else math.nan
        names = machine.kernels(contender.call) if timed else ()
    except FAILURES as error:
        return Row(group, where, contender.name, reason(error))
    rate = case.shape.flops / ms * 1e-9
    return Row(group, where, contender.name, status, ms, rate, "TFLOP/s", verdict.error, verdict.plain_error, names)


def triton_maps(machine: Machine) -> Iterator[Row]:
    """Deformable attention and the mask kernels at 1024² (86,016 tokens, 200 queries at 256²), beside plain torch."""
    from x2sam_rt.kernels import reference
    from x2sam_rt.kernels.triton import deformable_attention, mask_fusion

    sides, queries = ((2, 3, 5), 9) if machine.tiny else ((64, 128, 256), 200)
    grids, tokens = [(side, side) for side in sides], sum(side * side for side in sides)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, device=machine.device)

    value, masks = draw(1, tokens, 8, 32).to(machine.dtype), 8 * draw(queries, sides[2], sides[2]).to(machine.dtype)
    weights = draw(1, tokens, 8, 12).softmax(-1).view(1, tokens, 8, 3, 4).to(machine.dtype)
    points, classes = torch.rand(1, tokens, 8, 3, 4, 2, device=machine.device).to(machine.dtype), 5 * draw(queries, 21)
    moved = {"deformable_attention": 2 * value.nbytes + weights.nbytes + points.nbytes, "mask_fusion": masks.nbytes}
    size = (sides[1], sides[1])
    calls: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[object, ...]]] = {
        "deformable_attention": (
            deformable_attention.deformable_attention, reference.deformable_attention, (value, grids, points, weights)
        ),
        "mask_fusion": (mask_fusion.mask_fusion, reference.mask_fusion, (classes, masks)),
        "attention_mask": (mask_fusion.attention_mask, reference.attention_mask, (masks, size)),
    }  # fmt: skip
    for name, (own, twin, arguments) in calls.items():
        for label, function in (("triton", own), ("torch", twin)):
            yield compared(machine, name, label, function, twin, arguments, moved.get(name, masks.nbytes))


def compared(
    machine: Machine,
    name: str,
    label: str,
    function: Callable[..., Tensor],
    twin: Callable[..., Tensor],
    arguments: tuple[object, ...],
    moved: int,
) -> Row:
    exact_arguments = [part.double() if isinstance(part, Tensor) else part for part in arguments]
    try:
        truth, plain, out = twin(*exact_arguments).double(), twin(*arguments).double(), function(*arguments).double()
        error, plain_error = ((result - truth).abs().max().item() for result in (out, plain))
        if name == "attention_mask":  # logits next to zero may fall on either side
            error, plain_error = ((result - truth).abs().mean().item() for result in (out, plain))
        good = error <= 2 * plain_error + torch.finfo(machine.dtype).eps * truth.abs().max().item()
        ms = machine.milliseconds(lambda: function(*arguments))
    except FAILURES as failure:
        return Row("triton_maps", name, label, reason(failure), unit="GB/s")
    status = "ok" if good else f"WRONG: error {error:.3g}, plain torch {plain_error:.3g}"
    return Row("triton_maps", name, label, status, ms, moved / ms * 1e-6, "GB/s", error, plain_error)


def reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"not run: {type(error).__name__}: {lines[0][:160] if lines else ''}"


def run_group(group: str, tiny: bool, rows: Path) -> None:
    """In the child process: writes each row as it comes."""
    machine = Machine(tiny)
    maker = {"ceilings": ceilings, "triton_maps": triton_maps}.get(group)
    with rows.open("a") as file, torch.no_grad():
        for row in attention(group, machine) if maker is None else maker(machine):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


def build() -> str:
    """Compiles the CUDA library, its units beside each other, unless the one there is newer than its sources. Returns
    what happened."""
    sources = [path.stat().st_mtime for path in SOURCES.iterdir()]
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > max(sources):
        return "prebuilt"
    spec = find_spec("cutlass_library")
    named = os.environ.get("X2SAM_CUTLASS_INCLUDE")
    include = Path(named) if named else Path(str(spec.origin)).parent / "source/include" if spec else None
    if shutil.which("nvcc") is None or include is None:
        return "not built: nvcc or the CUTLASS headers (nvidia-cutlass, or X2SAM_CUTLASS_INCLUDE) are missing"
    BUILD.mkdir(parents=True, exist_ok=True)
    names = ("attention_bf16", "attention_fp8", "glue")
    objects = [str(BUILD / f"{name}.o") for name in names]
    units = [["-c", f"-I{include}", str(SOURCES / f"{name}.cu"), "-o", str(BUILD / f"{name}.o")] for name in names]
    with ThreadPoolExecutor() as pool:
        errors = [*pool.map(nvcc, units)]
    if not any(errors):
        errors = [nvcc(["-shared", "-o", str(LIBRARY), *objects])]
    return f"not built: {''.join(errors)[-400:]}" if any(errors) else "built"


def nvcc(arguments: list[str]) -> str:
    """What it complained of when it failed, else nothing."""
    ran = subprocess.run([*NVCC.split(), *arguments], capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip() or f"nvcc ended with {ran.returncode}"


def spawn(group: str, tiny: bool, rows: Path, left: float) -> Row | None:
    """Runs a group in its own process. left: seconds for it and the groups after it. Returns a row for a group that did
    not run or end well."""
    if left < LEAST_GROUP_S:
        return Row(group, "", group, "left out, the time is up")
    limit = min(GROUP_LIMIT_S, left)
    command = [sys.executable, str(Path(__file__)), "--group", group, "--rows", str(rows)]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if tiny else {})
    try:
        result = subprocess.run(
            [*command, *(["--dry-run"] if tiny else [])], capture_output=True, text=True, check=False,
            timeout=limit, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Row(group, "", group, f"stopped after {limit:.0f} s; the rows so far are kept")
    if result.returncode == 0:
        return None
    return Row(group, "", group, f"ended with {result.returncode}: {result.stderr.strip()[-300:]}")


def table(rows: list[Row]) -> str:
    """The timed rows with their share of the card's ceiling, and every row that is not ok."""
    ceiling = {row.unit: row.rate for row in rows if row.group == "ceilings"}
    lines = [f"{'shape':<22}{'contender':<24}{'ms':>9}{'rate':>9} {'unit':<8}{'share':>6}  status"]
    for row in rows:
        if math.isnan(row.ms) and row.status == "ok":
            continue
        share = row.rate / ceiling.get(row.unit, math.nan)
        numbers = f"{row.ms:9.3f}{row.rate:9.1f} {row.unit:<8}{share:6.0%}"
        lines.append(f"{row.shape:<22}{row.name:<24}{numbers}  {row.status[:90]}")
    checked = [row for row in rows if math.isnan(row.ms) and row.status == "ok"]
    return "\n".join([*lines, *aims(rows), f"{len(checked)} further checks on awkward shapes passed"])


def aims(rows: list[Row]) -> list[str]:
    """Per shape, our bfloat16 kernel against the ceiling (aim: 85 % at 65,536) and against torch's best backend."""
    ceiling = max((row.rate for row in rows if row.name == "matmul"), default=math.nan)
    lines = []
    for own in (row for row in rows if row.name == "cuda bf16" and row.status == "ok" and row.ms == row.ms):
        rivals = [row for row in rows if row.shape == own.shape and row.group in ("sdpa", "cudnn_slots")]
        best = min((row for row in rivals if row.status == "ok"), key=lambda row: row.ms, default=None)
        beside = "no rival ran" if best is None else f"{best.ms / own.ms:.2f}x the speed of {best.name}"
        lines.append(f"{own.shape}: {own.rate / ceiling:.0%} of matmul, {beside}")
    return lines


def save(rows: list[Row], built: str, tiny: bool) -> Path:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    triton = find_spec("triton")
    content = {
        "machine": {"gpu": gpu, "system": platform.platform(), "dry_run": tiny},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "triton": triton is not None,
        },
        "library": built,
        "rows": [{key: None if value != value else value for key, value in asdict(row).items()} for row in rows],
    }  # fmt: skip
    folder = BUILD if tiny else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu_attention.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def missing_packages() -> list[str]:
    """What the benchmarks and checks import that is not here, and what the kernels are built with."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if find_spec("cutlass_library") is None and "X2SAM_CUTLASS_INCLUDE" not in os.environ:
        missing.append("nvidia-cutlass (or X2SAM_CUTLASS_INCLUDE)")
    return missing + ([] if shutil.which("nvcc") else ["nvcc"])


def measure(groups: list[str], tiny: bool, deadline: float, built: str) -> tuple[list[Row], Path]:
    """deadline: of `time.monotonic()`. Saves after every group."""
    lines = BUILD / "rows.jsonl"
    BUILD.mkdir(parents=True, exist_ok=True)
    lines.write_text("")
    failed: list[Row] = []
    for group in groups:
        ended = spawn(group, tiny, lines, deadline - time.monotonic())
        failed += [] if ended is None else [ended]
        # A group that was stopped may have left half a line.
        measured = [json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}")]
        rows = [Row(**{**row, "kernels": tuple(row["kernels"])}) for row in measured] + failed
        path = save(rows, built, tiny)
    return rows, path


def main() -> int:
    """Returns 1 when a result was wrong, or what was asked for is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="run these groups alone")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=400, help="what all groups together may take; default: 400")
    parser.add_argument("--build", action="store_true", help="build the library and nothing else")
    parser.add_argument("--packages", action="store_true", help="say what is missing and nothing else")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    if arguments.packages:
        missing = missing_packages()
        print(f"missing: {', '.join(missing) or 'nothing'}")
        return int(bool(missing))
    if arguments.build:
        built = build()
        print(f"CUDA library: {built}")
        return int(built.startswith("not"))
    if arguments.group:
        run_group(arguments.group, arguments.dry_run, arguments.rows)
        return 0
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device; use --dry-run")
    built = "not needed" if arguments.dry_run else build()
    print(f"CUDA library: {built}", flush=True)
    rows, path = measure(arguments.only, arguments.dry_run, deadline, built)
    print(f"{table(rows)}\n{path}")
    return int(any(row.status.startswith("WRONG") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
