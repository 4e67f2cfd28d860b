"""What was measured of a run: the figures by name, the reports that hold them, and their pictures."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
