#!/usr/bin/env bash
# How fast `gpt` draws on CUDA beside transformers' Llama of equal weights, and how far it is from bare matrix products.
# Pending: not yet run on a GPU. Wanted: 5 times Llama's static cache at batch 1, and at most twice the products. The
# step is compiled, and one CUDA graph. Needs this project and transformers installed; some minutes. OUT: where results
# go; for a trial on a CPU
#   DEVICE=cpu SHAPES=128:2 TOKENS=16 ROUNDS=2
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-benchmarks/results/speed}
mkdir -p "$out"
for shape in ${SHAPES:-512:8 2048:24}; do
  width=${shape%:*} depth=${shape#*:}
  python benchmarks/speed/prior.py --device "${DEVICE:-cuda}" --width "$width" --depth "$depth" --batch 1 4 \
    --tokens "${TOKENS:-256}" --rounds "${ROUNDS:-5}" --compile -o "$out/prior-gpu-$width.json"
done
