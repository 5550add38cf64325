"""`recpolicy recommend` under guardrails: a file, options that replace its settings, and one line for bad input."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from command_line import recpolicy, refused
from tiny_policies import tiny_artifact

from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import load_policy

GENRES = ["Drama", "Comedy|Drama", "", "Action", "Comedy", "Drama"]


@pytest.fixture
def folder(tmp_path):
    artifact = tiny_artifact(items=6)
    artifact = replace(artifact, items=artifact.items.assign(genres=GENRES, year=pd.array([2000] * 6, dtype="Int64")))
    (tmp_path / "policy").mkdir()
    write_arrays(artifact, tmp_path / "policy")
    write_manifest(artifact, tmp_path / "policy")
    return tmp_path / "policy"


def rows(capsys, folder, *words):
    answer = recpolicy(capsys, "recommend", folder, "--user", 2, "-k", 4, "--json", *words)
    assert answer.code == 0, answer.err
    return [row["item_id"] for row in json.loads(answer.out)], answer.err


def test_options_and_file_give_the_lists_of_python(capsys, folder, tmp_path):
    file = tmp_path / "rails.toml"
    file.write_text(
        "[guardrails]\nmax_per_category = 1\nblocked = [103]\ndiversity = 0.9\n[guardrails.category_tilt]\nDrama = -1\n"
    )
    policy = load_policy(folder)

    def listed(**settings):
        return policy.recommend(2, 4, guardrails=GuardrailConfig(**settings))["item_id"].tolist()

    assert rows(capsys, folder, "--diversity", 0.5)[0] == listed(diversity=0.5)
    assert rows(capsys, folder, "--novelty", 0.5)[0] == listed(novelty=0.5)
    assert rows(capsys, folder, "--tilt", "Action=1", "--tilt", "Drama=-1")[0] == listed(
        category_tilt={"Action": 1.0, "Drama": -1.0}
    )
    shown, note = rows(capsys, folder, "--guardrails", file)
    assert shown == listed(max_per_category=1, blocked=(103,), diversity=0.9, category_tilt={"Drama": -1.0})
    assert note.startswith(
        f"user 2: {len(shown)} of 4 places are filled: 1 item is blocked; these categories are full: "
    )
    shown, _ = rows(capsys, folder, "--guardrails", file, "--diversity", 0, "--tilt", "Action=1")
    assert shown == listed(max_per_category=1, blocked=(103,), category_tilt={"Drama": -1.0, "Action": 1.0})
    assert rows(capsys, folder, "--diversity", 0)[0] == rows(capsys, folder)[0]


def test_ids_that_the_catalog_lacks_are_warned_of(capsys, folder, tmp_path):
    file = tmp_path / "rails.toml"
    file.write_text("[guardrails]\nblocked = [7]\n")
    _, note = rows(capsys, folder, "--guardrails", file)
    assert note == "warning: guardrails: no item with id 7 in this policy's catalog; such ids have no effect\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--diversity", 2), "diversity is 2.0: expected less than or equal to 1"),
        (("--novelty", -1), "novelty is -1.0: expected greater than or equal to 0"),
        (("--tilt", "Action"), "--tilt 'Action': expected CATEGORY=WEIGHT, such as Action=0.2"),
        (("--tilt", "Action=x"), "--tilt 'Action=x': expected CATEGORY=WEIGHT"),
        (("--tilt", "Acton=1"), "no category named 'Acton'. Did you mean 'Action'?"),
        (("--guardrails", "none.toml"), "none.toml: no such config file"),
    ],
)
def test_bad_options_are_one_line(capsys, folder, words, message):
    assert message in refused(recpolicy(capsys, "recommend", folder, "--user", 2, *words))
