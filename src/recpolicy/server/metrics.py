"""What the server counts, for Prometheus; over several processes where PROMETHEUS_MULTIPROC_DIR is set."""

import os
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter(
            "recpolicy_requests", "Requests answered.", ["method", "route", "status"], registry=here
        )
        self.seconds = Histogram(
            "recpolicy_request_seconds", "Time to answer.", ["route"], buckets=BUCKETS, registry=here
        )
        self.events = Counter("recpolicy_events", "Lists shown.", ["version", "variant", "explored"], registry=here)
        self.lost = Counter("recpolicy_events_lost", "Lists shown whose events nothing took.", registry=here)
        self.feedback = Counter("recpolicy_feedback", "Feedback by what became of it.", ["status"], registry=here)
        self.reward_sum = Counter("recpolicy_reward_sum", "Sum of rewards, above the scale's low end.", registry=here)
        self.reward_count = Counter("recpolicy_reward_count", "Rewards set.", registry=here)
        self.waiting = Gauge(
            "recpolicy_writes_waiting", "Writes that wait.", multiprocess_mode="livesum", registry=here
        )
        self.spooled = Gauge("recpolicy_events_spooled", "Events spooled.", multiprocess_mode="livesum", registry=here)
        self.store_up = Gauge(
            "recpolicy_store_up", "Whether the last commit went through.", multiprocess_mode="livemin", registry=here
        )
        self.version = Gauge(
            "recpolicy_version",
            "Version of an alias; 0: none.",
            ["alias"],
            multiprocess_mode="livemostrecent",
            registry=here,
        )
        self.share = Gauge(
            "recpolicy_challenger_share", "Users of the challenger.", multiprocess_mode="livemostrecent", registry=here
        )

        self.chosen = Histogram(
            "recpolicy_choose_seconds", "Time to choose while a challenger is tried; shadow: what nobody saw.",
            ["variant"], buckets=BUCKETS, registry=here,
        )  # fmt: skip
        self.failed = Counter("recpolicy_choose_failures", "Answers that failed.", ["variant"], registry=here)
        self.agreement = Summary("recpolicy_shadow_agreement", "Share of a list that both show.", registry=here)
        self.gap = Summary("recpolicy_shadow_gap", "Predicted rating, challenger - champion.", registry=here)
        # Looking a label up takes longer than counting.
        self._requests = lru_cache(1_000)(self.requests.labels)
        self._seconds = lru_cache(1_000)(self.seconds.labels)
        self._events = lru_cache(1_000)(self.events.labels)

    def chose(self, variant: str, failures: int, seconds: float) -> None:
        """Count an answer while a challenger is tried."""
        self.chosen.labels(variant).observe(seconds)
        self.failed.labels(variant).inc(failures)

    def shadowed(self, failures: int, seconds: float, agreement: float, gap: float) -> None:
        """Count what a shadow challenger would have shown."""
        self.chose("shadow", failures, seconds)
        if not failures:
            self.agreement.observe(agreement)
            self.gap.observe(gap)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests(method, route, str(status)).inc()
        self._seconds(route).observe(seconds)

    def shown(self, version: int, variant: str, explored: bool) -> None:
        """Count a list."""
        self._events(str(version), variant, str(explored)).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            together = CollectorRegistry()
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
            return generate_latest(together)
        return generate_latest(self.registry)
