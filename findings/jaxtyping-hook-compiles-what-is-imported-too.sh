#!/usr/bin/env bash
# jaxtyping 0.3.11: while a module that `install_import_hook` instruments is executed, the hook's own name for cached
# bytecode is in force for the whole import system. So every other package that the module is the first to import is
# compiled again too, not instrumented, under names that hold the hook's marker, and its own bytecode is not looked at.
#
# Guess, before it was tried: only the modules that are named to the hook are compiled anew and cached under the marker;
# a library that one of them imports is read from the bytecode that pip made when it was installed.
#
# Seen, Python 3.11, Linux: a package of one line, `import sympy`, named to the hook, has 470 modules of sympy and mpmath
# compiled, and writes as many further `.pyc` files into site-packages. Without the hook none is compiled. Where bytecode
# cannot be written (a read-only environment, PYTHONDONTWRITEBYTECODE), every process compiles them again: 2.2 CPU
# seconds in place of 0.4. vector-quantize-pytorch 1.32.0, first imported by an instrumented module, has 1,014 compiled,
# most of them torch's own.
#
# Exits with 1 if no module of the imported library is compiled any more.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jaxtyping==0.3.11 beartype==0.23.1 sympy==1.14.0 mpmath==1.3.0
mkdir "$folder/mine"
echo "import sympy" > "$folder/mine/__init__.py"

cat > "$folder/try.py" <<'PYTHON'
import sys
from importlib.machinery import SourceFileLoader
from time import process_time

import jaxtyping

compiled, plain = [], SourceFileLoader.source_to_code


def counted(self, data, path, **settings):
    compiled.append(path)
    return plain(self, data, path, **settings)


if sys.argv[1] == "hooked":
    jaxtyping.install_import_hook(["mine"], "beartype.beartype")
SourceFileLoader.source_to_code = counted
started = process_time()
import mine

others = [path for path in compiled if "sympy" in path or "mpmath" in path]
print(f"{sys.argv[1]}: {len(others)} modules of the library compiled, {process_time() - started:.1f} CPU s")
sys.exit(0 if bool(others) == (sys.argv[1] == "hooked") else 1)
PYTHON

cd "$folder"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$folder" "$folder/venv/bin/python" try.py plain
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$folder" "$folder/venv/bin/python" try.py hooked
PYTHONPATH="$folder" PYTHONDONTWRITEBYTECODE= "$folder/venv/bin/python" try.py hooked
echo "further .pyc of sympy: $(find "$folder/venv" -path '*sympy*' -name '*jaxtyping*.pyc' | wc -l)"
