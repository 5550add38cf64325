"""A thread that learns again and again: the part that learners of all kinds of policies share."""

import logging
import threading
from abc import ABC, abstractmethod

from recpolicy.core.errors import ArtifactError, ConfigError, DivergedError
from recpolicy.server.settings import OnlineConfig

logger = logging.getLogger(__name__)


class LearnerThread(ABC):
    """A learner whose thread calls `step` every some seconds; a failure is logged once and does not end it."""

    def __init__(self, name: str, config: OnlineConfig):
        self._name, self._seconds, self._enabled = name, config.seconds, config.enabled
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure = ""

    @abstractmethod
    def step(self) -> int:
        """Learn what is new; return the number of rewards or events."""

    def is_alive(self) -> bool:
        """Return True while the thread works, or if it never started."""
        return self._thread is None or self._thread.is_alive()

    def start(self) -> None:
        """Learn in a thread until `close`, if learning is enabled."""
        if self._enabled and self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Finish the step in progress."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.step()
                self._failure = ""
            except (ArtifactError, ConfigError, DivergedError) as error:
                self._log_once(str(error))
            except Exception as error:  # of any kind: the next step may be better
                self._log_once(type(error).__name__)

    def _log_once(self, failure: str) -> None:
        """Log a failure unless the step before failed in the same way."""
        if failure != self._failure:
            logger.error("online learning failed: %s", failure)
        self._failure = failure
