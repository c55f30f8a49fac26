#!/usr/bin/env bash
# How much faster FlexTok's decoder is at few tokens on CUDA, in bf16, when a few registers stand for all absent ones.
# Pending: not yet run. On a CPU core 2.2 times at 8 tokens (benchmarks/results/speed/few_tokens.jsonl). On CUDA the
# added weights take the memory-efficient attention in place of flash: does the ratio hold? Needs this project installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
for batch in 1 32 128; do
  python benchmarks/scripts/few_tokens.py --device cuda --batch "$batch" --steps 20 --tokens 1 8 32 64 128 192
done | tee "${OUT:-benchmarks/results/speed}/few-tokens-gpu.jsonl"
