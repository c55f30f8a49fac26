from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-semanticist")
def test_contract(check):
    check()
