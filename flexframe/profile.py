"""The old place of `flexframe.models.profile`."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.profile": (
            "Cost Live Meter PRECISIONS PartSize Profile Shape USES Uses attention_backward_flops attention_flops "
            "build measure size_of trial"
        ),
    },
)
