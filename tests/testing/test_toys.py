"""The toys keep the contracts, so that what the core's tests find on them is the core's."""

from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-toy")
def test_contract(check):
    check()
