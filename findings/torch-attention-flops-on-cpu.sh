#!/usr/bin/env bash
# torch 2.14.1 (and 2.11.0): FlopCounterMode counts attention on the CPU as no FLOPs, and torch's own formula for
# attention cannot be given to it for the operation that it leaves out.
#
# Guess, before it was tried: `FlopCounterMode` counts `scaled_dot_product_attention` on the CPU as it does its
# equal in plain products; and where an operation has no formula, `custom_mapping={operation: sdpa_flop}` lends it the
# one that torch registers for the GPU kernels.
#
# Seen, Python 3.11, Linux, CPU, with torch 2.14.1 and with torch 2.11.0, on q, k and v of 1 x 2 x 3 x 4:
#   math kernel, forward and backward:   864 FLOPs (six products of 144)
#   default kernel:                      0 FLOPs, and no warning
#   with sdpa_flop as custom_mapping:    TypeError: torch.utils.flop_counter.sdpa_flop() got multiple values for
#                                        keyword argument 'out_shape'
# `register_flop_formula` returns the formula wrapped, to be given shapes in place of tensors, and `FlopCounterMode`
# wraps whatever `custom_mapping` holds once more. A function that is not wrapped counts as it should: 288 forward.
#
# Exits with 1 if any of this is otherwise.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

OPERATION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def count(backward, **settings):
    q, k, v = (torch.rand(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False, **settings) as counter:
        out = scaled_dot_product_attention(q, k, v)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


def own(query, key, value, *rest, out_shape=None, **named):
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


print("torch", torch.__version__)
with sdpa_kernel(SDPBackend.MATH):
    plain = count(backward=True)
fused = count(backward=True)
try:
    lent = str(count(backward=False, custom_mapping={OPERATION: sdpa_flop}))
except TypeError as error:
    lent = f"TypeError: {error}"
unwrapped = count(backward=False, custom_mapping={OPERATION: own})
print("math kernel, forward and backward:", plain)
print("default kernel, forward and backward:", fused)
print("default kernel, forward, with sdpa_flop:", lent)
print("default kernel, forward, with a function that is not wrapped:", unwrapped)
same = plain == 864 and fused == 0 and "got multiple values for keyword argument 'out_shape'" in lent and unwrapped == 288
sys.exit(0 if same else 1)
PYTHON

"$folder/venv/bin/python" "$folder/try.py"
