# `just` lists these; `.ci/run` is the same in a fresh environment.

default:
    @just --list

setup:
    pip install -r requirements-dev.txt

test *ARGS:
    OMP_NUM_THREADS=1 pytest {{ARGS}}

lint:
    ruff check . && ruff format --check . && mypy && lint-imports

format:
    ruff check --fix . && ruff format .

demo:
    flexframe demo
