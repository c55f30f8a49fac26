from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-quantizers")
def test_contract(check):
    check()
