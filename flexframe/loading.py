"""The old place of model files, of finding models, and of building them."""

from flexframe_registry.moved import moved

__getattr__ = moved(
    __name__,
    {
        "flexframe.models.modelfile": "FORMAT MAX_CONFIG header_of read save",
        "flexframe.store.places": "Place fetch find locate preprocessing",
        "flexframe.store.load": "about_import imported load load_file override",
        "flexframe.models.build": "Model assemble build undrawn",
    },
)
