#!/usr/bin/env bash
# torch 2.14.1 (and 2.11.0): on a CPU with bf16 matrix units, the backward pass of `scaled_dot_product_attention` takes
# several times as long in bf16 as in fp32 while sequences are short, and as long when they are a few hundred positions.
#
# Guess, before it was tried: where plain products in bf16 are 8 to 10 times as quick as in fp32, attention in bf16 is
# quicker too, or at worst as quick, forward and backward.
#
# Seen, Python 3.11, Linux, one thread of an Intel Xeon with AMX, torch 2.14.1, 128 x 4 heads x 48 positions x 32:
#   plain product, 12288 x 128 by 128 x 512:  fp32 86, bf16 859 GFLOP/s
#   attention, forward:                       fp32 4.6 ms, bf16 4.6 ms
#   attention, backward:                      fp32 16 ms, bf16 97 ms
#   the same in plain products and a softmax: bf16 13 ms, forward and backward together
# With 16 positions the whole is 8 times slower than fp32, with 384 (and 4 heads of 32) 1.5 times, with 512 of 8 heads
# of 64 it is quicker (134 and 186 ms). A network trained in bf16 under autocast so may spend half of its time there.
#
# Exits with 1 if bf16's backward pass is no longer twice as slow, or if the machine has no bf16 matrix units (2).
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import sys
from time import process_time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
print("torch", torch.__version__)


def best(run, times=7):
    took = []
    for _ in range(times):
        started = process_time()
        run()
        took.append(process_time() - started)
    return 1e3 * min(took)


def product(dtype):
    x, w = torch.randn(12288, 128, dtype=dtype), torch.randn(512, 128, dtype=dtype)
    return best(lambda: F.linear(x, w))


def attention(dtype):
    q, k, v = (torch.randn(128, 4, 48, 32, dtype=dtype, requires_grad=True) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v)
    ones = torch.ones_like(out)
    forward = best(lambda: F.scaled_dot_product_attention(q, k, v))
    return forward, best(lambda: torch.autograd.grad(out, (q, k, v), ones, retain_graph=True))


products = {dtype: product(dtype) for dtype in (torch.float32, torch.bfloat16)}
for dtype, took in products.items():
    print(f"product {dtype}: {took:.1f} ms")
if products[torch.bfloat16] > products[torch.float32] / 2:
    print("this machine's bf16 products are not quick; nothing to compare")
    sys.exit(2)
backward = {}
for dtype in products:
    forward, backward[dtype] = attention(dtype)
    print(f"attention {dtype}: forward {forward:.1f} ms, backward {backward[dtype]:.1f} ms")
sys.exit(0 if backward[torch.bfloat16] > 2 * backward[torch.float32] else 1)
PYTHON

"$folder/venv/bin/python" "$folder/try.py"
