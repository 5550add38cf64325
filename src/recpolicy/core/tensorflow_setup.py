"""Prepare the environment before TensorFlow is imported: legacy Keras, no start-up lines, no banners.

TF-Agents 0.18 needs the legacy Keras; TensorFlow reads the variable once, at import. If it is set too late,
an error prevents a mix of two Keras versions that would fail far from its cause. Nothing here imports TensorFlow.
"""

import ctypes
import importlib.util
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

_LOG_LEVEL = "3"
"""TensorFlow's native code logs fatal errors only; Python raises the errors that users need."""
_NATIVE_LIBRARY = "libtensorflow_framework.so.2"
_SET_MIN_LOG_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"
"""absl::SetMinLogLevel(LogSeverityAtLeast) as TensorFlow 2.20 exports it."""


def prepare_environment() -> None:
    """Set the environment variables, unless TensorFlow is imported already without them: then raise ImportError."""
    if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") not in {"1", "true", "True"}:
        raise ImportError(
            "tensorflow was imported before recpolicy and without TF_USE_LEGACY_KERAS=1, which TF-Agents needs. "
            "Import recpolicy first, or set TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _LOG_LEVEL)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


def silence_libraries() -> None:
    """Take away banners and the chatter of XLA, absl, autograph and deprecated imports; call before TensorFlow starts.

    Calling again changes nothing. Needs the extra `train`.
    """
    import absl.logging
    import gym_notices.notices

    gym_notices.notices.notices.clear()
    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    _silence_native_log()
    for module in ("tensorflow", "tf_agents", "tf_keras", "tensorflow_probability", "gym", "pygame", "pkg_resources"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    warnings.filterwarnings("ignore", '"is( not)?" with', SyntaxWarning)  # TF-Agents, and autograph's copies of it
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    warnings.filterwarnings("ignore", "Encoding a StructuredValue with type tfp", UserWarning)  # PolicySaver


def _silence_native_log() -> None:
    """Hold absl's C++ log to TF_CPP_MIN_LOG_LEVEL.

    The first XLA compilation logs through absl directly ("Compiled cluster using XLA!"), which reads no environment
    variable and has no Python door. Where the function is not found, two harmless lines appear.
    """
    spec = importlib.util.find_spec("tensorflow")
    with suppress(AttributeError, OSError, ValueError):
        level = int(os.environ.get("TF_CPP_MIN_LOG_LEVEL", _LOG_LEVEL))
        if spec is not None and spec.origin is not None:
            library = ctypes.CDLL(str(Path(spec.origin).parent / _NATIVE_LIBRARY))
            getattr(library, _SET_MIN_LOG_LEVEL)(ctypes.c_int(level))
