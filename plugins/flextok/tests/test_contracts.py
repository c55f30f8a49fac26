from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-flextok")
def test_contract(check):
    check()
