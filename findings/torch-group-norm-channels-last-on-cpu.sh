#!/usr/bin/env bash
# torch 2.14.1: on a CPU, `GroupNorm` of a tensor in `channels_last` loses the digits of a mean that is large beside the
# deviation, where the same values in the usual memory format keep them.
#
# Guess, before it was tried: a memory format changes the order of sums, so both are within a few 1e-6 of float64 for
# values of deviation 1, whatever their mean.
#
# Seen, Python 3.11, Linux, Intel Xeon, torch 2.14.1, standard normals plus a mean, 2 x 64 x 32 x 32, 32 groups, largest
# error of outputs (which are of size 4) against the same module in float64:
#   mean          0        10       100      1000
#   contiguous    4e-7     2e-6     1e-5     1e-4
#   channels_last 2e-6     3e-4     3e-2     1e+3
# At a mean of 1000 the outputs have a deviation of 89 in place of 1: the variance is taken as the difference of two
# large numbers, and comes out near zero or below. `model.to(memory_format=torch.channels_last)`, which makes
# convolutions quicker, so changes what a network of groups computes; features of a mean of ten deviations are common.
# An issue of 2021 (pytorch #54293) mended the contiguous form.
#
# Exits with 1 if the two formats are equally near to float64.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import copy
import sys

import torch

print("torch", torch.__version__)
torch.manual_seed(0)
torch.set_num_threads(1)
norm = torch.nn.GroupNorm(32, 64)
exact = copy.deepcopy(norm).double()
worse = []
with torch.no_grad():
    for mean in (0, 10, 100, 1000):
        x = torch.randn(2, 64, 32, 32) + mean
        truth = exact(x.double())
        errors = [
            float((norm(x.contiguous(memory_format=layout)).double() - truth).abs().max())
            for layout in (torch.contiguous_format, torch.channels_last)
        ]
        print(f"mean {mean}: contiguous {errors[0]:.1e}, channels_last {errors[1]:.1e}")
        worse.append(errors[1] / errors[0])
sys.exit(0 if worse[1] > 20 and worse[3] > 1000 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
