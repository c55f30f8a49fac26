#!/usr/bin/env bash
# Every stage of FlexTok and TiTok at tiny size, two hundred steps each on the CPU, one feeding the next; a minute or two.
#   benchmarks/recipes/tiny/run.sh [KEY=VALUE]...
set -euo pipefail
cd "$(dirname "$0")/../../.."
for stage in grid-vq titok-stage1 titok-stage2 titok-single flextok-codec flextok; do
    flexframe train "benchmarks/recipes/tiny/$stage.yaml" "$@" -o "runs/tiny/$stage"
done
