#!/usr/bin/env bash
# A user's installation: a wheel, no extras, in an empty environment, used from a folder that is not the
# repository. Exports the embedded model, segments a video, and asks for what the extras bring.
#   PYTHON: interpreter to begin with. TORCH: as in the Makefile, installed first for the same reason.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet "${TORCH:-torch==2.13.0}"
venv/bin/pip wheel --quiet --no-deps --config-settings=build-dir="$work/build" --wheel-dir wheels "$repository"
venv/bin/pip install --quiet wheels/x2sam_rt-*.whl
venv/bin/pip check
export PATH="$work/venv/bin:$PATH"

python - <<'CODE'
from importlib.util import find_spec
from pathlib import Path

import x2sam_rt
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.kernels import available
from x2sam_rt.media.video import VideoWriter

package = Path(x2sam_rt.__file__).parent
assert Path.cwd() in package.parents, f"{package} is not the installed package"
assert (package / "py.typed").is_file()
surplus = [name for name in ("matplotlib", "scipy", "pytest", "ruff") if find_spec(name)]
assert not surplus, f"{surplus} came without being asked for"
print("installed:", available())
with VideoWriter("clip.mp4", 128, 128, 10) as video:
    for frame in make_clip(3, ClipSettings(frames=8)).frames:
        video.write(frame)
CODE

x2sam-rt export toy -o bundle
x2sam-rt run bundle --video clip.mp4 --prompt "the red circle" -o masked.mp4 -o masks.jsonl
test -s masked.mp4
test "$(wc -l < masks.jsonl)" -eq 8

refuses() { # EXTRA COMMAND…: the command must fail and say how to get what it lacks
  local extra=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "$* worked without the extra $extra" >&2
    exit 1
  fi
  grep -qF "pip install \"x2sam-rt[$extra]\"" <<< "$(tr -s '\n ' ' ' <<< "$said")" || { echo "$said" >&2; exit 1; }
}
refuses plot x2sam-rt profile bundle --video clip.mp4 --picture profile.png
refuses plot x2sam-rt eval bundle --limit 1 -o results
refuses train x2sam-rt train toy -o run
refuses serve x2sam-rt serve bundle
echo "a plain installation works"
