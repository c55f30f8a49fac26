from flexframe.testing import parametrize_contracts


@parametrize_contracts("flexframe-flextok")
def test_contract(check):
    check()


def test_a_later_field_at_its_default_is_no_part_of_a_fingerprint_or_a_protocol():
    from flexframe_flextok import FlowSampling, RegisterEncoderConfig

    assert "causal" not in RegisterEncoderConfig().deciding()
    assert RegisterEncoderConfig(causal=False).deciding()["causal"] is False
    assert "schedule" not in FlowSampling().deciding()
    assert FlowSampling(schedule="shift").deciding().keys() >= {"schedule", "steps", "solver"}
