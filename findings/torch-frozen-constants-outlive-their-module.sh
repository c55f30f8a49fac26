#!/usr/bin/env bash
# torch 2.14.1: with freezing, `torch.compile` of a module that was just made returns the constants of another, earlier
# one, where both hold the same parameter and its values were changed in between.
#
# Guess, before it was tried: a frozen module does not see its weights change, as is documented; a new module, compiled
# by a call of its own, is compiled for itself, and has the values that its weights have then.
#
# Seen, Python 3.11, Linux, g++ 12, torch 2.14.1+cu130 and 2.11.0+cu130, CPU, under `no_grad`, sums of outputs:
#   first module, random weight                   not 0
#   second module, same parameter, now zero       as before; 0 is right
#   the same after `torch.compiler.reset()`       0
# What was compiled is kept with the class's code, and found again by guards: the parameter is the same object, its
# values are not guarded, and nothing that the code reads tells the modules apart. So whoever wraps a model's weights
# anew for each use, trains between two uses and compiles with frozen weights gets the old model, in silence. An
# attribute that the code reads, of another value in each module, keeps them apart.
#
# Exits with 1 if the second module has its own values.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import torch
import torch._inductor.config as inductor

inductor.freezing = True


class Wrapped(torch.nn.Module):
    def __init__(self, weight, number=None):
        super().__init__()
        self.weight, self.number = weight, number

    def forward(self, x):
        assert self.number is None or self.number >= 0
        return torch.nn.functional.linear(x, self.weight)


def through(weight, number=None):
    with torch.no_grad():
        return torch.compile(Wrapped(weight, number))(torch.ones(1, 16)).abs().sum().item()


def after_a_change(numbers, reset=False):
    torch.compiler.reset()
    weight = torch.nn.Parameter(torch.randn(16, 16))
    first = through(weight, numbers[0])
    assert first > 0
    weight.data.zero_()
    if reset:
        torch.compiler.reset()
    second = through(weight, numbers[1])
    return "old" if second == first else "new" if second == 0 else "neither"


found = {
    "new module": after_a_change((None, None)),
    "told apart": after_a_change((0, 1)),
    "after reset": after_a_change((None, None), reset=True),
}
print(torch.__version__, found)
assert found == {"new module": "old", "told apart": "new", "after reset": "new"}, found
PYTHON

CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore "$folder/venv/bin/python" "$folder/try.py"
