"""Make a trained model forget, and prove it: Scissorhands for transformers and diffusers."""

import lazy_loader


__version__ = "0.1.0"

# The names are listed in __init__.pyi, for type checkers and here alike; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
