#!/usr/bin/env bash
# Correctness, tuning and timing of the kernels on a GPU, unattended, in under 8 minutes and without a network.
# Needs a python with torch, triton and numpy; nothing is installed.
#
#   benchmarks/gpu_suite.sh FOLDER            results, logs and tuned tile tables go to FOLDER
#   benchmarks/gpu_suite.sh FOLDER --small    tiny shapes: only shows that the script runs, also without a GPU
#
# Then look at FOLDER/summary.txt; copy FOLDER/tiles/*.json to kernels/nuclr_kernels/tiles/ and FOLDER/*.md,
# FOLDER/*.json to benchmarks/results/ (names starting with gpu_).
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?"usage: benchmarks/gpu_suite.sh FOLDER [--small]"}
small=${2:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$root"
export PYTHONPATH="$root:$root/kernels:$root/plugins:$root/benchmarks/gpu" PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$out/.triton}"
python=${PYTHON:-python3}
summary=$out/summary.txt
: > "$summary"
failed=0

# step NAME SECONDS COMMAND...: its output goes to NAME.log and, in the end, to the terminal.
step() {
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1
  code=$?
  [ $code -ne 0 ] && failed=1
  echo "$name: exit $code after $((SECONDS - began)) s (limit $limit s)" | tee -a "$summary"
  tail -n 60 "$out/$name.log"
}

step correctness 150 "$python" benchmarks/gpu/correctness.py --out "$out" $small
step tune 130 "$python" benchmarks/gpu/tune.py --out "$out" --seconds 110 $small
[ -d "$out/tiles" ] && export NUCLR_TILES="$out/tiles"
step bench 120 "$python" benchmarks/gpu/bench.py --out "$out" --seconds 95 $small
step train_step 50 "$python" benchmarks/gpu/train_step.py --out "$out" $small
if command -v compute-sanitizer > /dev/null; then
  step sanitizer 60 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" benchmarks/gpu/sanitized.py
else
  echo "sanitizer: compute-sanitizer is not on PATH, left out" | tee -a "$summary"
fi
rm -rf "$out/.triton"
echo; echo "--- summary"; cat "$summary"
exit $failed
