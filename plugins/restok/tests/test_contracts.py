from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-restok")
def test_contract(check):
    check()
