#!/usr/bin/env bash
# FlexTok against TiTok on Tiny-ImageNet at 64 pixels: as many images, about as many parameters and operations.
# Pending: not yet run on a GPU. On one H200 each model should take less than 6 minutes.
#
#   TRAIN='data/train-{00000..00002}.tar' VAL='data/val-{00000..00001}.tar' bash benchmarks/gpu/02-tiny-imagenet-64.sh
#
# TRAIN, VAL        the images, a folder or tar shards
# OUT               where runs and results go (benchmarks/results/tiny-imagenet-64)
# BACKBONE, LINEAR  files of SqueezeNet's and LPIPS's weights; not given: fetched
# INCEPTION         file of Inception's weights; not given: fetched
# SECONDS_A_PART    after so long a training stops with a checkpoint; the same command goes on (500)
# STEPS, COUNT, DEVICE, BATCH, MODELS   for a trial on a CPU: STEPS=40 COUNT=64 DEVICE=cpu BATCH=16
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TRAIN:?give TRAIN, the training images}" "${VAL:?give VAL, the validation images}"
out=${OUT:-benchmarks/results/tiny-imagenet-64} device=${DEVICE:-cuda}
mkdir -p "$out"
overrides=("run.data.path=$TRAIN")
[ -n "${STEPS:-}" ] && overrides+=("run.steps=$STEPS" run.warmup=10 run.log_every=5 run.compile=false run.workers=1)
[ -n "${BATCH:-}" ] && overrides+=("run.batch_size=$BATCH")
models=()
for name in ${MODELS:-flextok titok-64 titok-16 titok-4}; do
  folder=$out/runs/$name
  models+=("$folder")
  [ -f "$folder/model.safetensors" ] && continue
  own=("${overrides[@]}")
  if [ "$name" != flextok ]; then
    [ -n "${BACKBONE:-}" ] && own+=("run.objectives.1.backbone=$BACKBONE")
    [ -n "${LINEAR:-}" ] && own+=("run.objectives.1.linear=$LINEAR")
    [ -n "${STEPS:-}" ] && own+=("run.objectives.2.start=$((STEPS / 2))")
  fi
  command=(flexframe train "benchmarks/recipes/tiny-imagenet-64/$name.yaml" "${own[@]}" -o "$folder")
  [ -f "$folder/config.json" ] && command=(flexframe train --resume "$folder")
  # SIGTERM makes a checkpoint; the next call of this script goes on from it
  code=0
  timeout --signal=TERM "${SECONDS_A_PART:-500}" "${command[@]}" --device "$device" || code=$?
  [ -f "$folder/model.safetensors" ] && continue
  [ "$code" = 124 ] || { echo "$name: training failed"; exit "$code"; }
  echo "$name: out of time, with a checkpoint; call this script again to go on"
  exit 3
done
suite=("data.path=$VAL" budgets=[1,2,4,8,16,32,64])
[ -n "${COUNT:-}" ] && suite+=("count=$COUNT")
[ -n "${BACKBONE:-}" ] && suite+=("metrics.2.backbone=$BACKBONE")
[ -n "${LINEAR:-}" ] && suite+=("metrics.2.linear=$LINEAR")
[ -n "${INCEPTION:-}" ] && suite+=("metrics.5.weights=$INCEPTION" "metrics.6.weights=$INCEPTION")
flexframe bench tiny-imagenet64-recon "${models[@]}" "${suite[@]}" -o "$out/bench" --device "$device"
