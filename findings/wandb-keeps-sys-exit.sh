#!/usr/bin/env bash
# wandb 0.31.0: `sys.exit` stays replaced after `run.finish()`, to the end of the process.
#
# Guess, before it was tried: the run puts its own function in the place of `sys.exit` to learn the exit code, and
# `finish()` puts Python's back.
#
# Seen, Python 3.11, Linux, offline: after `finish()`, `sys.exit` is a bound method of wandb's, the same after a second
# run. A traceback of any later exit names wandb as its last frame, so a program that blames the place of an exit (a
# command line, a test's monkeypatch) blames a run that is over.
#
# Exits with 1 if `sys.exit` is Python's again after `finish()`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "wandb==0.31.0"

cat > "$folder/try.py" <<'PYTHON'
import os
import sys

import wandb

print("wandb", wandb.__version__)
own, left = sys.exit, []
for number in range(2):
    run = wandb.init(mode="offline", dir=os.environ["FOLDER"], project="p", settings=wandb.Settings(silent=True))
    run.log({"loss": 1.0})
    run.finish()
    left.append(sys.exit)
    print("run", number, "finished; sys.exit is", getattr(sys.exit, "__module__", None), sys.exit.__qualname__)
print("Python's again:", left[-1] is own, "- the first run's still:", left[1] == left[0])
os._exit(0 if own not in left else 1)
PYTHON
FOLDER="$folder" "$folder/venv/bin/python" "$folder/try.py"
