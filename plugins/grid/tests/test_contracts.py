from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-grid")
def test_contract(check):
    check()
