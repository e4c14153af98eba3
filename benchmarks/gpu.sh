#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under twelve minutes, on a machine with Python, PyTorch and nvcc, without
# network: builds the kernels, checks them and the runtime, measures attention, whole frames and the language side.
#
#   benchmarks/gpu.sh              # on the GPU machine; PYTHON=… names an interpreter
#   benchmarks/gpu.sh --dry-run    # anywhere: the same steps, tiny, on the CPU
#
# Status: only dry-run so far; not yet run on a GPU.
#
# A step that fails or reaches its time limit does not end the run; the last lines say which did. Results:
# benchmarks/results/gpu_attention.json, gpu_frame.json, gpu_language.json.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DRY=${1:-}
if [[ -n $DRY && $DRY != --dry-run ]]; then
    echo "usage: benchmarks/gpu.sh [--dry-run]" >&2
    exit 2
fi
export PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
failed=()

step() { # name, seconds, command…
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    echo "== $name"
    timeout "$limit" "$@" || failed+=("$name (exit $?)")
    echo "== $name: $((SECONDS - started)) s"
}

[[ -z $DRY ]] && step machine 10 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
step attention 240 "$PYTHON" benchmarks/gpu_attention.py $DRY ${DRY:+--only ceilings}
# It ends by itself before that, and writes every row when it has it.
step frame 185 "$PYTHON" benchmarks/gpu_frame.py --seconds 165 $DRY
step language 180 "$PYTHON" benchmarks/gpu_language.py $DRY
# After the measurements: what ran is on paper even if the time is up.
[[ -z $DRY ]] && step checks 100 "$PYTHON" -m pytest -q -m gpu tests

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all steps passed"
