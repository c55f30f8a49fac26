# `just` lists these; `.ci/run` is the same in a fresh environment.

default:
    @just --list

# everything, in editable form
setup:
    pip install -r requirements-dev.txt

# all tests, or those named: just test plugins/titok
test *ARGS:
    OMP_NUM_THREADS=1 pytest {{ARGS}}

# tests of under ten seconds each
quick *ARGS:
    OMP_NUM_THREADS=1 pytest -m "not slow" {{ARGS}}

lint:
    ruff check . && ruff format --check . && mypy && lint-imports

format:
    ruff check --fix . && ruff format .

demo *ARGS:
    flexframe demo {{ARGS}}

doctor:
    flexframe doctor

# every distribution, into dist/
wheels:
    pip wheel --no-deps --wheel-dir dist . $(dirname ./plugins/*/pyproject.toml)

# the site, into site/; `just docs serve` shows it as it is written
docs *ARGS="build --strict":
    NO_MKDOCS_2_WARNING=1 mkdocs {{ARGS}}

# docs/parts.md, from the catalogue
parts:
    python docs/parts.py

# run the quickstart and write its outputs; needs: pip install nbclient ipykernel
notebook:
    jupyter execute --inplace docs/quickstart.ipynb
    python -c "import json, pathlib; p = pathlib.Path('docs/quickstart.ipynb'); n = json.loads(p.read_text()); \
        [o['data'].pop('image/png', None) for c in n['cells'] for o in c.get('outputs', ()) if 'image/jpeg' in o.get('data', ())]; \
        [c['metadata'].pop('execution', None) for c in n['cells']]; \
        p.write_text(json.dumps(n, indent=1, ensure_ascii=False) + '\\n')"  # pictures once, as JPEG
