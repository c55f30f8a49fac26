from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-lengths")
def test_contract(check):
    check()
