"""The old place of LPIPS's network and of the files of its weights."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.nn.lpips": "BACKBONES Perceptual",
        "flexframe.store.weights": "backbone_file linear_file published read_weights",
    },
)
