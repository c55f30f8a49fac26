from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-objectives")
def test_contract(check):
    check()
