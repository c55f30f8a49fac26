"""Shape checks in all of flexframe's packages; and the largest error of each golden case, at the end of a session."""

import sys
from pathlib import Path

import jaxtyping

ROOT = Path(__file__).parent
PLUGINS = (path.parent.name for path in ROOT.glob("plugins/*/flexframe_*/__init__.py"))
jaxtyping.install_import_hook(["flexframe", *PLUGINS], "beartype.beartype")


def pytest_terminal_summary(terminalreporter):
    parity = sys.modules.get("flexframe.testing.parity")  # imported here, it would escape the shape checks
    if parity is not None:
        terminalreporter.section("parity with the reference implementations")
        parity.report(terminalreporter.write_line)
