from pathlib import Path

import sklearn.datasets

from flexframe.testing import parametrize_contracts

PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"  # two JPEG files that scikit-learn ships


@parametrize_contracts(
    "flexframe", {"source/folder": {"path": str(PHOTOGRAPHS)}, "metric/classifier": {"data": "digits"}}
)
def test_contract(check):
    check()
