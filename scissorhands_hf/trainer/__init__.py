"""`ScissorhandsTrainer`, a `transformers.Trainer` that makes a model forget, with its settings, data and checks."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
