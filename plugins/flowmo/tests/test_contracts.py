from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-flowmo")
def test_contract(check):
    check()
