"""From a finished run to a repository that its reader trusts and its user loads with one stock line."""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
