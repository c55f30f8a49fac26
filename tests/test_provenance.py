"""Where a result comes from."""

import json
import sys

from flexframe import provenance


def test_versions_name_every_plugin_and_the_libraries_that_move_numbers():
    found = provenance.versions()
    assert {"flexframe", "flexframe-toy", "torch", "numpy", "python"} <= found.keys()
    assert all(isinstance(version, str) and version for version in found.values())


def test_libraries_that_plugins_require_are_named_extras_among_them(monkeypatch):
    found = provenance.versions()
    assert "pluggy" in found  # which the toys require
    assert "rich" not in found  # of flexframe itself, only what it computes with
    lines = [
        "timm>=1.0.9",
        "flexframe",
        "numpy[extra]>=2; python_version > '3'",
        "pillow ; extra == 'x'",
        "no-such (>1)",
    ]
    monkeypatch.setattr(provenance, "requires", lambda name: lines)
    monkeypatch.setattr(provenance, "required", provenance.required.__wrapped__)  # what is kept is of others
    assert provenance.required("anything") == ["flexframe", "no-such", "numpy", "pillow", "timm"]
    assert "no-such" not in provenance.versions()


def test_a_plugin_that_is_not_installed_requires_nothing():
    assert provenance.required("flexframe-no-such-plugin") == []


def test_a_manifest_is_plain_data_with_the_facts_laid_in(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/flexframe", "train", "x"])
    found = json.loads(json.dumps(provenance.manifest(seed=3)))
    assert found["command"] == ["flexframe", "train", "x"]
    assert found["seed"] == 3
    assert {"date", "commit", "versions", "host"} <= found.keys()


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__() is None
