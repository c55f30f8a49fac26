from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-titok")
def test_contract(check):
    check()
