#!/usr/bin/env bash
# The families on digits, trained equally and measured by one suite; a few minutes of a CPU core each.
#   benchmarks/recipes/digits/run.sh [FAMILY]... [KEY=VALUE]...      all families, or these; settings are of every run
# What is trained goes on or is left as it is; the page is out/digits/report.html.
set -euo pipefail
cd "$(dirname "$0")/../../.."
families=() settings=()
for word in "$@"; do
    if [[ $word == *=* ]]; then settings+=("$word"); else families+=("$word"); fi
done
if [[ ${#families[@]} == 0 ]]; then
    for recipe in benchmarks/recipes/digits/*.yaml; do families+=("$(basename "$recipe" .yaml)"); done
fi
for family in "${families[@]}"; do
    flexframe train "benchmarks/recipes/digits/$family.yaml" "${settings[@]}" -o "runs/digits/$family"
done
flexframe bench digits "${families[@]/#/runs/digits/}" budgets='[1, 2, 4, 8]' -o out/digits
