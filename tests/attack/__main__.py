"""The entrance of scripts/attack."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), *(str(TESTS / folder) for folder in ("server", "inference", "registry"))]

from attack.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
