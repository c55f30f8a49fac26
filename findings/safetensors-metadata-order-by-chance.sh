#!/usr/bin/env bash
# safetensors 0.8.0: equal tensors and equal metadata give files that differ, from call to call.
#
# Guess: equal content gives equal bytes, as for tensors, whose order in the file is fixed. (Written down after a file's
# hash had already been seen to change, so the guess was known to be wrong.)
# Seen with safetensors 0.8.0: the order of metadata's keys in the header is drawn anew. Of twenty files with six equal
# entries, all twenty differed; each reads back to the same metadata and tensors. Who compares checkpoints by hash, caches by
# content or commits them to a store of hashes sees changes where there are none. One entry or none is always equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.3.5
cat > "$folder/look.py" <<'PY'
import hashlib
import sys

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

folder = sys.argv[1]
tensors = {"weight": numpy.ones((2, 2), numpy.float32), "bias": numpy.zeros(2, numpy.float32)}


def kinds(metadata):
    hashes, read = set(), set()
    for i in range(20):
        path = f"{folder}/{i}.safetensors"
        save_file(tensors, path, metadata=metadata)
        hashes.add(hashlib.sha256(open(path, "rb").read()).hexdigest())
        with safe_open(path, "numpy") as file:
            read.add((tuple(sorted((file.metadata() or {}).items())), file.get_tensor("weight").tobytes()))
    assert len(read) == 1, "what is read differs"
    return len(hashes)


six = kinds({name: name for name in ("format", "step", "run", "commit", "licence", "note")})
one, none = kinds({"format": "pt"}), kinds(None)
print(f"files of twenty saves that differ: {six} with six entries of metadata, {one} with one, {none} with none")
assert (one, none) == (1, 1), "changed: files without metadata to order differ"
assert six > 1, "changed: the order of metadata is fixed"
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
