"""Import kfp without a slow import that it does not need."""

import sys


def import_kfp() -> None:
    """Import kfp; call it before any other import of kfp.

    The Kubernetes client of kfp imports kubernetes_validate if that is installed, as in our development environment.
    That takes seconds for a check that we never call, so this function hides the module from kfp.
    """
    name = "kubernetes_validate"
    if "kfp" in sys.modules or name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import kfp  # noqa: F401
    finally:
        del sys.modules[name]
