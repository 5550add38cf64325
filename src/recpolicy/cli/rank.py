"""`recpolicy rank`: order the actions of one request with a feature policy."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.output import print_frame, print_json, print_text

_MAX_BYTES = 16 << 20


def rank(
    folder: Annotated[Path, typer.Argument(help="Folder that `recpolicy train --features` wrote.")],
    actions: Annotated[
        Path,
        typer.Option("--actions", help='JSON file with a list of actions: \\[{"id": ..., "features": {...}}, ...].'),
    ],
    context: Annotated[
        Path | None, typer.Option("--context", help="JSON file with the features of the context: {...}.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Id of an action that must not come first; repeat.")
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option("--event-id", help="Seed of the draw: the same id gives the same ranking (default: random)."),
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Ignore features that the training log did not have.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Rank actions with features: the first one is drawn from the policy's probabilities, the rest follow by score."""
    import pandas as pd

    from recpolicy.core.ids import convert_id
    from recpolicy.inference.feature_artifact import read_feature_policy

    policy = read_feature_policy(folder)
    request = {} if context is None else _read_json(context)
    offered = _read_actions(actions)
    ids = [identifier for identifier, _ in offered]
    excluded: list[Any] = [convert_id(text, ids) for text in exclude or ()]
    unknown = [identifier for identifier in excluded if identifier not in ids]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no id among the actions", param_hint="--exclude")
    ranking = policy.rank(request, offered, excluded, event_id, strict=not ignore_unknown)
    order = ranking.order.tolist()
    rows = {
        "rank": list(range(1, len(order) + 1)),
        "id": [ids[position] for position in order],
        "probability": ranking.probability[order].tolist(),
        "score": ranking.score[order].tolist(),
    }
    if as_json:
        ranked = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        print_json({"chosen": ids[ranking.chosen], "event_id": event_id, "ranking": ranked})
        return
    print_frame(pd.DataFrame(rows))
    print_text("\n`probability`: of being the first, `score`: the expected reward.")


def _read_actions(path: Path) -> list[tuple[Any, Any]]:
    """Return the ids and features of the actions in a JSON file."""
    from recpolicy.core.errors import DataError

    body = _read_json(path)
    if not isinstance(body, list):
        raise DataError(f"{path}: found {type(body).__name__}; expected a list of actions")
    actions = []
    for place, action in enumerate(body):
        if not isinstance(action, dict) or "id" not in action:
            raise DataError(f'{path}: action {place} has no id; expected {{"id": ..., "features": {{...}}}}')
        others = sorted(set(action) - {"id", "features"})
        if others:
            raise DataError(
                f"{path}: action {place} has the key {others[0]!r}; expected id and features, with all features inside"
            )
        actions.append((action["id"], action.get("features", {})))
    return actions


def _read_json(path: Path) -> Any:
    from recpolicy.core.errors import DataError

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is no number of JSON")

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; expected at most {_MAX_BYTES:,}")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None


COMMANDS = (
    Command(rank, "Example:  recpolicy rank runs/offers --context context.json --actions actions.json --event-id 42"),
)
