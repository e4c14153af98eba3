#!/usr/bin/env bash
# Everything that needs a GPU, without network, within nine minutes a call: builds the kernels, checks them and the
# runtime, measures attention, whole frames and the language side.
#
#   benchmarks/gpu.sh                        # all parts, on a machine with a GPU; PYTHON=… names an interpreter
#   benchmarks/gpu.sh PART…                  # some, in this order: attention frame checks language
#   benchmarks/gpu.sh --dry-run [PART…]      # anywhere: the same steps, tiny, on the CPU
#
# Needs Python ≥ 3.11, what pyproject.toml lists, pytest, Triton, nvcc ≥ 12.5 and the nvidia-cutlass package; the first step
# names what is missing. Where nothing can be fetched, bring it in .gpu-packages, made elsewhere with
# `pip install --target .gpu-packages --no-deps --python-version 3.12 --only-binary=:all: av pycocotools nvidia-cutlass`.
#
# All steps together keep to LIMIT seconds (default 530): each has its own limit, and at most what is left. A step that
# fails, reaches its limit or is left out does not end the run; the last lines say which. Most valuable first, and each row
# is written as soon as it is there, to benchmarks/results/gpu_attention.json, gpu_frame.json, gpu_language.json.
#
# Status: only dry-run so far; not yet run on a GPU.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-530}
PARTS=(attention frame checks language)
DRY=
if [[ ${1:-} == --dry-run ]]; then
    DRY=$1
    shift
fi
for part in "$@"; do
    if [[ " ${PARTS[*]} " != *" $part "* ]]; then
        echo "usage: benchmarks/gpu.sh [--dry-run] [PART…], parts: ${PARTS[*]}; got '$part'" >&2
        exit 2
    fi
done
(($#)) && PARTS=("$@")
export PYTHONPATH="$PWD:$PWD/benchmarks:$PWD/.gpu-packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=()

step() { # name, seconds, command…; SECONDS_LEFT in the command: what it may take, to end by itself before it is ended
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    ((limit > LIMIT - SECONDS)) && limit=$((LIMIT - SECONDS))
    if ((limit < 20)); then
        failed+=("$name (left out, the time is up)")
        return
    fi
    echo "== $name, at most $limit s"
    timeout --kill-after 5 "$limit" "${@//SECONDS_LEFT/$((limit - 15))}" || failed+=("$name (exit $?)")
    echo "== $name: $((SECONDS - started)) s"
}

attention() {
    [[ -z $DRY ]] && step build 150 "$PYTHON" benchmarks/gpu_attention.py --build
    step attention 180 "$PYTHON" benchmarks/gpu_attention.py --seconds SECONDS_LEFT $DRY ${DRY:+--only ceilings}
}

frame() { step frame 170 "$PYTHON" benchmarks/gpu_frame.py --seconds SECONDS_LEFT $DRY; }

checks() { [[ -z $DRY ]] && step checks 150 "$PYTHON" -m pytest -q -m gpu tests; }

language() { step language 400 "$PYTHON" benchmarks/gpu_language.py $DRY; }

if [[ -z $DRY ]]; then
    step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
    step packages 60 "$PYTHON" benchmarks/gpu_attention.py --packages
fi
for part in "${PARTS[@]}"; do "$part"; done

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all steps passed"
