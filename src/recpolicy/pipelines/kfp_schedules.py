"""Recurring runs of Kubeflow Pipelines as schedules, those of one name in one experiment."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recpolicy.pipelines.kfp_errors import told
from recpolicy.pipelines.schedules import Schedule

if TYPE_CHECKING:
    import kfp

MARK = "Made by `recpolicy pipeline submit`, which replaces it when it is submitted again."
"""The description of a recurring run, by which ours are known."""
_PAGE = 100


def display_name_is(name: str) -> str:
    """The filter by which the API lists what is called so."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


@dataclass(frozen=True)
class RecurringRuns:
    """Those called `name` in the experiment of this id; `settings` are of the new one, named as kfp.Client does."""

    client: "kfp.Client"
    name: str
    experiment: str
    settings: Mapping[str, Any]

    def there(self) -> list[Schedule]:
        """Those that are there now."""
        return [
            Schedule(one.recurring_run_id, one.mode != "DISABLE", one.description == MARK)
            for one in self._listed()
            if one.display_name == self.name  # some servers compare without case
        ]

    def prepare(self) -> str:
        """Make the new one, switched off."""
        return self._make(enabled=False)

    def start(self, prepared: str) -> str:
        """Switch it on, or make it so."""
        if not prepared:
            return self._make(enabled=True)
        self.client.enable_recurring_run(prepared)
        return prepared

    def stop(self, id: str) -> None:
        """Switch one off."""
        self.client.disable_recurring_run(id)

    def resume(self, id: str) -> None:
        """Switch one on again."""
        self.client.enable_recurring_run(id)

    def delete(self, id: str) -> None:
        """Delete one; its runs stay."""
        self.client.delete_recurring_run(id)

    def _make(self, enabled: bool) -> str:
        made = self.client.create_recurring_run(
            self.experiment, self.name, description=MARK, max_concurrency=1, no_catchup=True, enabled=enabled,
            **self.settings,
        )  # fmt: skip
        return told(made, "recurring_run_id")

    def _listed(self) -> Iterator[Any]:
        token = ""
        while True:
            page = self.client.list_recurring_runs(
                token, _PAGE, experiment_id=self.experiment, filter=display_name_is(self.name)
            )
            yield from page.recurring_runs or ()
            token = page.next_page_token
            if not token:
                return
