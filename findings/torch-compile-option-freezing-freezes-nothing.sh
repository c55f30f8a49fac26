#!/usr/bin/env bash
# torch 2.14.1: `torch.compile(model, options={"freezing": True})` freezes no weight, and says nothing; the same setting
# made for the process, `torch._inductor.config.freezing`, does.
#
# Guess, before it was tried: an option of one call of `torch.compile` is that setting for what this call compiles, as
# its documentation has it, so that both ways make weights constants.
#
# Seen, Python 3.11, Linux, g++ 12, torch 2.14.1+cu130 and 2.11.0+cu130, CPU; whether a layer under `no_grad` keeps its
# output after its weight was set to zero, so whether it was frozen:
#   no setting     False
#   option         False
#   for the process True
# Options reach the compiler's back end. That weights are handed over as constants, without which there is nothing to
# freeze, is decided before, where Python is traced, and there the process's setting alone is read. So packed weights,
# and the products on a CPU that need them, do not come, and with `max_autotune_gemm_backends` at "CPP" as the only
# other option the compiler ends with "No choices exist for backend", which names another setting.
#
# Exits with 1 if the option freezes.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==${TORCH:-2.14.1}" "numpy==2.4.1"

cat > "$folder/try.py" <<'PYTHON'
import torch
import torch._inductor.config as inductor


def frozen(options=None, process=False):
    torch.compiler.reset()
    layer, x = torch.nn.Linear(16, 16, bias=False), torch.ones(1, 16)
    with torch.no_grad(), inductor.patch(freezing=process):
        compiled = torch.compile(layer, options=options)
        assert compiled(x).any()
        layer.weight.zero_()
        return bool(compiled(x).any())


found = {
    "no setting": frozen(),
    "option": frozen({"freezing": True}),
    "for the process": frozen(process=True),
}
print(torch.__version__, found)
assert found == {"no setting": False, "option": False, "for the process": True}, found
PYTHON

CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore "$folder/venv/bin/python" "$folder/try.py"
