#!/usr/bin/env bash
# Where the time of FlexTok d12-d12's and TiTok-B-64's training steps goes, before and after compiling the blocks.
# Pending: not yet run on a GPU. Needs this project installed; some minutes. Writes train-step-*.json and the tables.
#   PEAK  the GPU's dense bf16 rate in TFLOP/s (989, an H100's or H200's)
#   OUT   where results go (benchmarks/results/speed/train-step)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-benchmarks/results/speed/train-step}
mkdir -p "$out"
for compile in false true; do
  for model in flextok/d12-d12 titok/b-64; do
    settings=(run.precision=bf16 "run.compile=$compile")
    [ "$model" = titok/b-64 ] && settings+=('run.objectives=[mse]')
    echo "== $model, compile=$compile"
    python benchmarks/scripts/train_step.py "$model" --device cuda --batch 64 --peak "${PEAK:-989}" \
      -o "$out/train-step-${model//\//-}-compile-$compile.json" "${settings[@]}"
  done
done | tee "$out/tables.txt"
