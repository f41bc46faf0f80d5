#!/usr/bin/env bash
# All that a GPU has to tell about openddpm, in one command, in the repository root:
#
#   make gpu-check                       # where there is a network: sets itself up, takes half an hour
#   bash benchmarks/gpu/check.sh         # a machine without a network, prepared by prepare.sh: what is reached in 540 s
#   bash benchmarks/gpu/check.sh exact ladder run            # steps by name, in the plan's order
#   DRY=1 bash benchmarks/gpu/check.sh   # without a GPU: tiny UNets, which say only that the check itself works
#
# A second call on the same machine goes on where the first stood. Variables, with their defaults: DEADLINE=540 seconds
# of a call, OUT=runs/gpu-check (gpu.json, summary.txt, logs.tar.gz, run.tar.gz), WORK=runs/gpu-check/work (runs, and what
# a later call goes on from), PYTHON=python3, RUN_SECONDS=150 of the run of minutes, DATA (images for it; default
# .gpu/emoji-64.zip if it is there, else generated photos).
#
# The plan, by what tells most. Seconds are those of an H100 or H200: a process starts in 18, compiling takes 83 more
# (both measured on an H200), 45 steps of the plain loop 6. Nothing is compiled beside anything else: that ruins both.
#
#   step       part                     s  up to
#   tests      tests                   60     60  tests that need a GPU, and what must be exact under --speed exact
#   batch-16   plain                   30     90  plain loop
#   batch-16   max-16                 135    225  ours, --speed max; before it, what the GPU gives
#   batch-16   auto-16                135    360  ours, --speed auto
#   batch-128  max-128                140    500  ours, --speed max, batch 128
#   exact      exact                   60    560  ours, --speed exact, batches of 16 and 128
#   ladder     ladder-decoded-once     25    585  plain loop: + decoded-once
#   ladder     ladder-device-noise     25    610  plain loop: + device-noise
#   ladder     ladder-no-waits         25    635  plain loop: + no-waits
#   ladder     ladder-fused-adamw      25    660  plain loop: + fused-adamw
#   ladder     ladder-foreach-ema      25    685  plain loop: + foreach-ema
#   ladder     ladder-tf32             50    735  plain loop: + tf32
#   ladder     ladder-bf16             50    785  plain loop: + bf16
#   ladder     ladder-compile         140    925  plain loop: + compile
#   run        run                    240   1165  a run of minutes, whose record is kept, and samples of it
#   near       near                   110   1275  tests of what is near --speed exact: auto, bf16, fp16, Muon, compiled
#   rest       auto-128               140   1415  ours, --speed auto, batch 128
#   rest       muon-16                150   1565  ours, --speed max --optimizer muon
#   rest       workers                 45   1610  plain loop: workers and bf16
#
# In 540 seconds the first call comes to the end of batch-128; a second one of 300 seconds takes `run`, which finds the
# UNet of max-128 compiled, or `exact ladder`. What is not reached is said, and stands in gpu.json.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
OUT=${OUT:-runs/gpu-check}
WORK=${WORK:-runs/gpu-check/work} # gigabytes
PYTHON=${PYTHON:-python3}
DATA=${DATA:-$(ls .gpu/emoji-64.zip 2>/dev/null)}
mkdir -p "$WORK" || exit 2
export PYTHONPATH=$PWD/benchmarks/gpu:$PWD/benchmarks:$PWD/src${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

has_diffusers() { "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("diffusers") is None)'; }

if ! has_diffusers; then # take what prepare.sh has fetched; what is installed stays
  if ! ls .whl/*.whl >/dev/null 2>&1; then
    echo "openddpm's packages are not installed for $PYTHON. With a network: make gpu-check. Without: see prepare.sh" >&2
    exit 2
  fi
  site=$(cd "$WORK" && pwd)/site
  if [ ! -e "$site/.done" ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl \
      && touch "$site/.done" || exit 3
  fi
  export HIDE_PACKAGES="transformers peft scipy" PYTHONPATH=$PWD/benchmarks/gpu/site:$site:$PYTHONPATH
fi

exec "$PYTHON" benchmarks/gpu/check.py "$@" --work "$WORK" --out "$OUT" --deadline "${DEADLINE:-540}" \
  --seconds_gone "$SECONDS" --run_seconds "${RUN_SECONDS:-150}" ${DATA:+--data "$DATA"} ${DRY:+--dry_run}
