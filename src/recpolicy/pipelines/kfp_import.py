"""kfp, imported without what it does not need."""

import sys


def import_kfp() -> None:
    """Import kfp; to be called before any other import of it.

    Its Kubernetes client imports kubernetes_validate where that is installed (our development environment): seconds,
    for a check that nobody calls here. The client does without.
    """
    name = "kubernetes_validate"
    if "kfp" in sys.modules or name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import kfp  # noqa: F401
    finally:
        del sys.modules[name]
