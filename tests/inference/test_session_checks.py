"""Arrays of a mistrusted session policy: each fault is one line that names the array."""

import numpy as np
import pytest
from tiny_session_policies import GENRES, LAST_N, RANK, UNITS, tiny_session_artifact

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.session_checks import check_session
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS

ITEMS, FEATURES = 11, 2 * (RANK + GENRES) + 1
FLOATS = np.float32


def check(kind: str, /, **changes) -> None:
    """Check the policy of a view with other arrays; None removes one. Names have __ in place of each slash."""
    arrays = tiny_session_artifact(0, kind).policy | {name.replace("__", "/"): part for name, part in changes.items()}
    check_session({name: np.asarray(part) for name, part in arrays.items() if part is not None}, ITEMS, RANK)


@pytest.mark.parametrize("view", ["interest", "last_item", "last_n", *SEQUENCE_VIEWS])
def test_policies_as_trainings_write_them_pass(view):
    check(view)


def test_other_policies_have_nothing_to_check():
    check_session({"theta": np.zeros(3)}, ITEMS, RANK)


@pytest.mark.parametrize("network", ["", "value__"])
@pytest.mark.parametrize("view", SEQUENCE_VIEWS)
def test_every_array_of_an_encoder_must_be_there_with_its_shape_and_type(view, network):
    start = f"{network.replace('__', '/')}encoder/"
    arrays = tiny_session_artifact(0, view).policy
    names = [name.removeprefix(start) for name in arrays if name.startswith(start)]
    assert len(names) == {"gru": 7, "transformer": 20}[view]
    for name in names:
        array = arrays[start + name]
        # An encoder without its last block is a smaller encoder: then what is left of the block is too many.
        place = rf"policy/{start}\w+: "
        for wrong in (None, array[..., np.newaxis], np.full(array.shape, "x"), array.astype(np.complex64)
                      if array.dtype.kind == "f" else np.array(1.5), array.astype("f2") if array.dtype.kind == "f" else
                      np.array(-1), array[:0] if array.ndim else np.zeros(0, int)):  # fmt: skip
            with pytest.raises(ArtifactError, match=place + r".*train it again$"):
                check(view, **{f"{network}encoder__{name}": wrong})


@pytest.mark.parametrize(
    ("view", "changes", "fault"),
    [
        ("gru", {"encoder__input": np.zeros((FEATURES, 5), FLOATS)},
         rf"encoder/input: float32 \[{FEATURES}, 5\]; expected floats \[{FEATURES}, {3 * UNITS}\]"),
        ("gru", {"encoder__input": np.zeros((FEATURES + 2, 3 * UNITS), FLOATS)}, r"encoder/input: .*expected floats"),
        ("gru", {"encoder__recurrent_bias": None}, r"encoder/recurrent_bias: missing; expected floats \[12\]"),
        ("gru", {"encoder__position": np.zeros((LAST_N, UNITS), FLOATS)}, "encoder/position: no array of a gru"),
        ("gru", {"encoder__recurrent": np.zeros((0, 0), FLOATS)}, "encoder/recurrent: expected 2 axes, and 1 to 1,024"),
        ("gru", {"encoder__kind": "transformer"}, "encoder/kind: expected the view, gru"),
        ("gru", {"encoder__places": np.array(LAST_N + 1)}, "encoder/places: expected last_n, at most 200"),
        ("gru", {"encoder__places": np.array(float(LAST_N))}, "encoder/places: expected last_n"),
        ("gru", {"last_n": np.array(300), "encoder__places": np.array(300)}, "encoder/places: expected last_n"),
        ("transformer", {"encoder__heads": np.array(3)}, f"encoder/heads: 3; expected a divisor of {UNITS} units"),
        ("transformer", {"encoder__heads": np.array(0)}, "encoder/heads: expected one number of 1 to 1,024"),
        ("transformer", {"encoder__heads": np.array([2])}, "encoder/heads: expected one number"),
        ("transformer", {"encoder__heads": np.array(2.0)}, "encoder/heads: expected one number"),
        ("transformer", {"encoder__query_7": np.zeros((UNITS, UNITS), FLOATS)}, "encoder/query_7: no array"),
        ("transformer", {"encoder__attention_7": np.zeros((UNITS, UNITS), FLOATS)}, r"encoder/attention_7: no array"),
        ("transformer", {"value__encoder__hidden_1": np.zeros((UNITS, 3), FLOATS)},
         rf"value/encoder/hidden_1: float32 \[4, 3\]; expected floats \[4, {2 * UNITS}\]"),
        ("interest", {"encoder__kind": "gru"}, "encoder/kind: no array of a policy without such an encoder"),
        ("gru", {"value__kernel_0": None}, "value/encoder/heads: no array of a policy without such an encoder"),
        ("interest", {"genres": np.zeros((ITEMS - 1, GENRES), FLOATS)}, "genres: expected a row of numbers for each"),
        ("interest", {"steps": np.array(0)}, "steps: expected one number of 1 to 10,000"),
        ("interest", {"view": "lstm"}, "view: no view named 'lstm'"),
    ],
)  # fmt: skip
def test_the_fault_says_what_was_found_and_expected(view, changes, fault):
    with pytest.raises(ArtifactError, match=f"^policy/{fault}"):
        check(view, **changes)
