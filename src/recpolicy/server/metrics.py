"""Metrics for Prometheus; summed over the processes if PROMETHEUS_MULTIPROC_DIR is set."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from recpolicy.server.db.schema import LIST, RANK, STRATEGY

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"recpolicy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, mode: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"recpolicy_{name}", text, labels, multiprocess_mode=mode, registry=registry)  # type: ignore[arg-type]

        def histogram(name: str, text: str, label: str) -> Histogram:
            return Histogram(f"recpolicy_{name}", text, [label], buckets=BUCKETS, registry=registry)

        self.requests = counter("requests", "Requests answered.", ("method", "route", "status"))
        self.seconds = histogram("request_seconds", "Time to answer.", "route")
        self.events = counter("events", "Lists recommended.", ("version", "variant", "explored"))
        self.described = counter("lists_of_posteriors", "Lists of users whom a posterior describes.", ("start",))
        self.weight_fallbacks = counter(
            "weight_fallbacks", "Lists that the static weights, or the policy's own score, ranked in place of a layer.",
            ("version",),
        )  # fmt: skip
        self.unread = gauge(
            "users_unread", "Users answered without a look at their latest ratings, since the start.", "livesum"
        )
        self.sessions_unread = gauge(
            "sessions_unread", "Requests answered without a look at their sessions, since the start.", "livesum"
        )
        self.lost = counter("events_lost", "Lists recommended whose events could not be stored.")
        self.feedback = counter("feedback", "Feedback by outcome.", ("status",))
        self.ranks = counter("ranks", "Ranked events, each slot as one.", ("version", "variant", "mode"))
        self.imitations = counter(
            "imitations",
            "Ranks of the mode apprentice, by agreement of the policy with the baseline.",
            ("agrees",),
        )
        self.signals = counter("rank_signals", "Signals on ranked events by outcome.", ("status",))
        self.unfilled = counter("slots_unfilled", "Slots of ranks that got no action.", ("version", "cause"))
        self.not_greedy = counter(
            "choices_not_greedy", "Lists, ranks and strategies that differ from the best estimate.", ("version", "task")
        )
        self.chosen_std = Summary(
            "recpolicy_chosen_std",
            "Standard deviation of the estimates of what was chosen: mean over a list's predicted ratings, or of the"
            " expected reward of a rank's action.", ("version", "task"), registry=registry,
        )  # fmt: skip
        self.strategies = counter("strategies", "Strategies recommended.", ("version", "source", "explored"))
        self.typed_signals = counter("signals", "Accepted feedback and signals.", ("version", "task", "type"))
        self.signal_rate = gauge(
            "signal_rate", "Share of today's events (UTC) with a signal, at the last check of drift.", "livemostrecent",
            ("version", "task", "type"),
        )  # fmt: skip
        self.reward_sum = counter("reward_sum", "Sum of rewards above the lower end of the scale.")
        self.reward_count = counter("reward_count", "Rewards set.")
        self.not_learned = counter("rewards_not_learned", "Rewards without a key that online learning leaves out.")
        self.waiting = gauge("writes_waiting", "Writes that wait.", "livesum")
        self.spooled = gauge("events_spooled", "Events that wait in the spool.", "livesum")
        self.rejected = gauge("events_rejected", "Events that the database refused since the start.", "livesum")
        self.log_dropped = gauge("log_lines_dropped", "Log lines dropped because nobody read them.", "livesum")
        self.store_up = gauge("store_up", "1 while the database accepts writes.", "livemin")
        self.version = gauge("version", "Version of an alias; 0: none.", "livemostrecent", ("alias",))
        self.traffic_fraction = gauge(
            "challenger_traffic_fraction", "Fraction of the users that the challenger serves.", "livemostrecent"
        )
        self.chosen = histogram("choose_seconds", "Time to choose during a rollout, by variant or shadow.", "variant")
        self.failed = counter("choose_failures", "Answers that failed.", ("variant",))
        self.agreement = Summary(
            "recpolicy_shadow_agreement",
            "Fraction of a list, or of slots, that both choose.",
            registry=registry,
        )
        self.rating_difference = Summary(
            "recpolicy_shadow_rating_difference",
            "Predicted value, challenger - champion.",
            registry=registry,
        )
        self._rated: set[tuple[int, str, str]] = set()
        # A label look-up takes longer than a count.
        self._requests = lru_cache(1_000)(self.requests.labels)
        self._seconds = lru_cache(1_000)(self.seconds.labels)
        self._events = lru_cache(1_000)(self.events.labels)
        self._ranks = lru_cache(1_000)(self.ranks.labels)
        self._chosen_std = lru_cache(1_000)(self.chosen_std.labels)
        self._strategies = lru_cache(1_000)(self.strategies.labels)
        self._signals = lru_cache(1_000)(self.typed_signals.labels)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests(method, route, str(status)).inc()
        self._seconds(route).observe(seconds)

    def count_lists(self, version: int, variant: str, explored: bool, count: int) -> None:
        """Count recommended lists."""
        self._events(version, variant, explored).inc(count)

    def count_described(self, start: str) -> None:
        """Count a list of a user whose posterior started at `start`: prior or trained."""
        self.described.labels(start).inc()

    def count_weight_fallback(self, version: int) -> None:
        """Count a list that the weights of a tuned layer did not rank."""
        self.weight_fallbacks.labels(version).inc()

    def count_ranks(self, version: int, variant: str, mode: str, count: int) -> None:
        """Count ranked events."""
        self._ranks(version, variant, mode).inc(count)

    def count_imitations(self, agreements: Sequence[bool]) -> None:
        """Count ranked events of the mode apprentice, each with the policy's agreement with the baseline."""
        for agrees in agreements:
            self.imitations.labels(str(agrees).lower()).inc()

    def observe_choice_of_list(self, version: int, greedy: bool, mean_std: float) -> None:
        """Count a list that is not the best one, and observe the mean standard deviation of its predictions."""
        if not greedy:
            self.not_greedy.labels(version, LIST).inc()
        if math.isfinite(mean_std):
            self._chosen_std(version, LIST).observe(mean_std)

    def observe_choice_of_rank(self, version: int, std: float) -> None:
        """Observe the standard deviation of the expected reward of a rank's action."""
        if math.isfinite(std):
            self._chosen_std(version, RANK).observe(std)

    def count_not_greedy(self, version: int, task: str, count: int) -> None:
        """Count ranks or strategies whose action is not the best estimate."""
        if count:
            self.not_greedy.labels(version, task).inc(count)

    def count_strategy(self, version: int, source: str, explored: bool) -> None:
        """Count a strategy that was recommended."""
        self._strategies(version, source, explored).inc()
        self.count_not_greedy(version, STRATEGY, int(explored))

    def count_signal(self, version: int, task: str, signal_type: str) -> None:
        """Count feedback or a signal that was accepted."""
        self._signals(version, task, signal_type).inc()

    def set_signal_rates(self, rates: Mapping[tuple[int, str, str], float]) -> None:
        """Set the rates of today by version, task and type; a rate that is missing now becomes NaN."""
        for labels in self._rated - rates.keys():
            self.signal_rate.labels(*labels).set(math.nan)
        for labels, rate in rates.items():
            self.signal_rate.labels(*labels).set(rate)
        self._rated |= rates.keys()

    def observe_choice(self, variant: str, failures: int, seconds: float) -> None:
        """Count an answer during a rollout."""
        self.chosen.labels(variant).observe(seconds)
        self.failed.labels(variant).inc(failures)

    def observe_shadow(self, failures: int, seconds: float, agreement: float, rating_difference: float) -> None:
        """Count a comparison with the shadow challenger."""
        self.observe_choice("shadow", failures, seconds)
        if not failures:
            self.agreement.observe(agreement)
            self.rating_difference.observe(rating_difference)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self.registry)
