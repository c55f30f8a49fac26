#!/usr/bin/env bash
# torch 2.14.1 (build with CUDA, no GPU): once `FakeTensorMode` has been entered, the first backward pass of a process,
# on plain CPU tensors, starts eight threads for GPUs that are not there, and children forked later can run no backward
# pass. A backward pass before the mode prevents it.
#
# Guess, before it was tried: fake tensors hold no data and start nothing; a child that is forked after the mode was
# left trains on the CPU as it does without it, and the order of mode and first backward pass is of no matter.
#
# Seen, Python 3.11, Linux, torch 2.14.1+cu130 and 2.11.0+cu130, no GPU, threads of the process after each step, and
# whether a backward pass in a fork works:
#   backward                   1        works
#   enter                      1        works
#   enter, backward            1, 9     RuntimeError: Unable to handle autograd's threading ...
#   backward, enter, backward  1, 1, 1  works
# On entering, the mode puts a stand-in of eight devices in the place of CUDA's device guard, so that fake tensors may
# say `cuda`, and never takes it back; autograd looks once, at the first backward pass, for how many devices there are.
# So a process that counts FLOPs or memory by fake tensors before it trains cannot fork workers that train, on a machine
# without any GPU, and the error speaks of neither.
#
# Exits with 1 if the order of the two does not matter any more.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import os
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def backward():
    torch.ones(3, requires_grad=True).sum().backward()


threads = []
for step in sys.argv[1:]:
    if step == "enter":
        with FakeTensorMode():
            pass
    else:
        backward()
    threads.append(len(os.listdir("/proc/self/task")))
child = os.fork()
if not child:
    try:
        backward()
    except RuntimeError as error:
        print("   ", str(error)[:100], flush=True)
        os._exit(3)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(torch.__version__, *sys.argv[1:], "threads", threads, "child", code, flush=True)
os._exit(code)
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
python="$folder/venv/bin/python"
"$python" "$folder/try.py" backward
"$python" "$folder/try.py" enter
"$python" "$folder/try.py" backward enter backward
code=0
"$python" "$folder/try.py" enter backward || code=$?
[ "$code" = 3 ]
