#!/usr/bin/env bash
# FlexTok against TiTok on Tiny-ImageNet at 64 pixels: as many images, about as many parameters and operations.
# Pending: not yet run on a GPU. On one H200 each model should take less than 6 minutes.
#
#   TRAIN='data/train-{00000..00002}.tar' VAL='data/val-{00000..00001}.tar' bash benchmarks/gpu/02-tiny-imagenet-64.sh
#
# TRAIN, VAL        the images, a folder or tar shards; whole paths
# OUT               where runs and results go (benchmarks/results/trainings/tiny-imagenet-64-FORM)
# BACKBONE, LINEAR  files of SqueezeNet's and LPIPS's weights; not given: fetched
# INCEPTION         file of Inception's weights; not given: fetched
# SECONDS_A_PART    after so long a training stops with a checkpoint; the same command goes on (500)
# MODELS            which of flextok titok-64 titok-16 titok-4 (all)
# FORM=cpu          the same on a CPU core in minutes a model: narrow models, patches of 8, no critic, 300 steps of 32
#                   images, 64 images measured. It shows that everything runs, and ranks nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TRAIN:?give TRAIN, the training images}" "${VAL:?give VAL, the validation images}"
form=${FORM:-gpu}
out=${OUT:-benchmarks/results/trainings/tiny-imagenet-64-$form}
mkdir -p "$out"
overrides=("run.data.path=$TRAIN") suite=("data.path=$VAL") device=cuda
if [ "$form" = cpu ]; then
  device=cpu
  overrides+=(run.steps=300 run.batch_size=32 run.optimizer.warmup=20 run.log_every=20 run.precision=fp32 run.compile=false
    run.feed.workers=0 run.ema=0.98 encoder.width=128 decoder.width=128 encoder.depth=2 decoder.depth=2
    encoder.patch=8 decoder.patch=8)
  suite+=(count=64 'budgets=[1,4,16,64]')
else
  suite+=('budgets=[1,2,4,8,16,32,64]')
fi
models=()
for name in ${MODELS:-flextok titok-64 titok-16 titok-4}; do
  folder=$out/runs/$name
  models+=("$folder")
  [ -f "$folder/model.safetensors" ] && continue
  own=("${overrides[@]}")
  if [ "$name" = flextok ]; then
    [ "$form" = cpu ] && own+=(encoder.head_dim=32 decoder.head_dim=32)
  else
    [ "$form" = cpu ] && own+=(encoder.heads=4 decoder.heads=4 run.objectives.2.start=300)
    [ -n "${BACKBONE:-}" ] && own+=("run.objectives.1.backbone=$BACKBONE")
    [ -n "${LINEAR:-}" ] && own+=("run.objectives.1.linear=$LINEAR")
  fi
  command=(flexframe train "benchmarks/recipes/tiny-imagenet-64/$name.yaml" "${own[@]}" -o "$folder")
  [ -f "$folder/config.json" ] && command=(flexframe train --resume "$folder")
  # SIGTERM makes a checkpoint; the next call of this script goes on from it
  code=0
  timeout --signal=TERM "${SECONDS_A_PART:-500}" "${command[@]}" --device "$device" || code=$?
  [ -f "$folder/model.safetensors" ] && continue
  [ "$code" = 0 ] || [ "$code" = 124 ] || { echo "$name: training failed"; exit 1; }
  echo "$name: stopped, with a checkpoint; call this script again to go on"
  exit 3
done
[ -n "${BACKBONE:-}" ] && suite+=("metrics.2.backbone=$BACKBONE")
[ -n "${LINEAR:-}" ] && suite+=("metrics.2.linear=$LINEAR")
[ -n "${INCEPTION:-}" ] && suite+=("metrics.5.weights=$INCEPTION" "metrics.6.weights=$INCEPTION")
flexframe bench tiny-imagenet64-recon "${models[@]}" "${suite[@]}" -o "$out/bench" --device "$device"
