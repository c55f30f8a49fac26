from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-priors")
def test_contract(check):
    check()
