#!/usr/bin/env bash
# Is FlexAttention faster than masked SDPA for the register encoder on CUDA? Decides whether the encoder takes it up.
# Pending: not yet run. Writes benchmarks/results/speed/attention-gpu.jsonl. Needs this project installed, and a GPU; a minute.
set -euo pipefail
cd "$(dirname "$0")/../.."
for batch in 16 64 256; do
  for heads in 12 18; do
    python benchmarks/scripts/attention.py --device cuda --batch "$batch" --heads "$heads"
  done
done | tee "${OUT:-benchmarks/results/speed}/attention-gpu.jsonl"
