"""distillkac: train, guide, distil and sample finite-speed (Kac) image generators."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`distillkac.ops` is imported when it is first asked for: version and doctor need no kernels, nor torch."""
    if name == "ops":
        import importlib

        return importlib.import_module("distillkac.ops")
    raise AttributeError(f"module 'distillkac' has no attribute '{name}'")
