"""Data sets, kept on the device as uint8, normalised and augmented there in batches."""

import lazy_loader

# Names are imported when they are used, as torch takes seconds; `__init__.pyi` lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
