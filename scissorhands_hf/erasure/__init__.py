"""The diffusion door: remove a concept from a diffusers pipeline, by the same trainer as everything else."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
