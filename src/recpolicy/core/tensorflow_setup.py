"""What must be true before TensorFlow is imported, and quiet: legacy Keras, no start-up lines, no banners.

TF-Agents 0.18 needs the legacy Keras; TensorFlow reads the variable once, at import, so too late is an error, not a
silent mix of two Kerases that fails far from its cause.
"""

import os
import sys


def prepare_environment() -> None:
    """Set the environment variables, unless TensorFlow is imported already without them: then raise ImportError."""
    if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") not in {"1", "true", "True"}:
        raise ImportError(
            "tensorflow was imported before recpolicy and without TF_USE_LEGACY_KERAS=1, which TF-Agents needs. "
            "Import recpolicy first, or set TF_USE_LEGACY_KERAS=1 before Python starts."
        )
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


def silence_libraries() -> None:
    """Take away gym's notice and the warnings that absl and autograph print while a policy is saved."""
    import logging
    import warnings

    import absl.logging
    import gym_notices.notices

    gym_notices.notices.notices.clear()
    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for module in ("tensorflow", "tf_agents", "tf_keras", "tensorflow_probability", "gym", "pygame", "pkg_resources"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
