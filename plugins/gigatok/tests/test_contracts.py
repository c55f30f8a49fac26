from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-gigatok")
def test_contract(check):
    check()
