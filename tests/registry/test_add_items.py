"""New and retired items: what a version gains and loses, what stays, and what is refused in one line."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_feature_log import tiny_policy
from tiny_policies import RANK, tiny_artifact

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, RecpolicyError, UnknownIdError
from recpolicy.inference.artifact import Artifact, policy_digest, read_artifact, write_arrays, write_manifest
from recpolicy.inference.catalog_changes import with_items, without_items
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.reward_estimators import pack_symmetric
from recpolicy.models.embeddings import Embeddings, item_std
from recpolicy.models.fold_in import fold_in_items, genre_prior
from recpolicy.registry import add_items
from recpolicy.registry.add_items import change_items
from recpolicy.registry.model_registry import Registry

GENRES = ("Comedy", "Drama", "Horror")
NEW = "item,title,genres,year\n501,Night of tests,Drama|Horror,1998\n502,Plain,,\n"


def with_genres(bias: bool = True, **changes: object) -> Artifact:
    """The tiny policy of eleven items with genres, and a regressor that is always 1."""
    artifact = tiny_artifact()
    rng = np.random.default_rng(3)
    width, count = RANK + bias, len(artifact.item)
    factor = rng.normal(0, 0.1, (count, width, width))
    policy = {
        "theta": rng.normal(1, 0.5, (count, width)).astype(np.float32),
        "covariance": pack_symmetric(factor @ factor.transpose(0, 2, 1)).astype(np.float32),
        "prior_precision": np.float32(20.0),
        "bias": np.bool_(bias),
    }
    names = ["|".join(np.array(GENRES)[chosen]) for chosen in rng.random((count, 3)) < 0.5]
    names[:3] = GENRES
    items = artifact.items.assign(genres=pd.Series(names, dtype="str"))
    changed = replace(artifact, policy=policy, items=items, **changes)
    return replace(changed, metadata={**artifact.metadata, "policy_digest": policy_digest(changed)})


def write(folder: Path, artifact: Artifact) -> Path:
    """Write an artifact with a checkpoint that nobody reads."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "state.index").write_bytes(b"variables")
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose version 1 is the champion; read only."""
    folder = tmp_path_factory.mktemp("made")
    learned = np.array([5, 9], np.uint64)
    registry = Registry(folder / "registry")
    registry.register(write(folder / "policy", with_genres(learned_events=learned)), gate={"verdict": "pass"})
    registry.promote(1)
    return folder / "registry"


@pytest.fixture
def registry(made: Path, tmp_path: Path) -> Registry:
    """A copy to be changed."""
    return Registry(shutil.copytree(made, tmp_path / "registry"))


@pytest.fixture
def new_items(tmp_path: Path) -> Path:
    """A file of two new items."""
    path = tmp_path / "new.csv"
    path.write_text(NEW)
    return path


def table(*rows: tuple[object, str]) -> pd.DataFrame:
    """New items by id and genres."""
    ids, genres = zip(*rows, strict=True)
    year = pd.array([None] * len(rows), dtype="Int64")
    return pd.DataFrame({"item_id": list(ids), "title": [f"Title {i}" for i in ids], "year": year, "genres": genres})


def test_a_new_item_starts_where_genres_say_and_as_unsure_as_they_leave_it(registry, new_items):
    version = change_items(registry, "champion", new_items)
    before, after = (read_artifact(registry.resolve(number)) for number in (1, version.number))
    rank, noise = RANK, before.noise_std
    embeddings = Embeddings(
        before.context[:, :rank], before.item, before.offset, before.scale, noise, np.nan, item_std(before.rating_std)
    )
    prior = genre_prior(embeddings, before.tables.genres.astype(np.float32))
    folded = fold_in_items(prior, np.array([[0, 1, 1], [0, 0, 0]], np.float32))
    np.testing.assert_array_equal(after.item[-2:], folded.embedding)
    np.testing.assert_array_equal(after.offset[-2:], folded.offset)
    np.testing.assert_array_equal(
        after.policy["theta"][-2:], np.column_stack([folded.embedding, folded.offset])
    )  # the constant 1 is the last regressor
    order = [1, 2, 3, 0]
    expected = folded.covariance[:, order][:, :, order] / noise**2
    np.testing.assert_allclose(after.policy["covariance"][-2:], pack_symmetric(expected), rtol=1e-6)
    assert after.tables.item_ids[-2:] == [501, 502]
    assert after.tables.titles[-2:] == ["Night of tests", "Plain"]
    assert after.tables.years[-2] == 1998
    np.testing.assert_array_equal(after.tables.genres[-2:], [[False, True, True], [False, False, False]])


def test_everything_else_stays_as_it_was(registry, new_items):
    version = change_items(registry, 1, new_items)
    before, after = (read_artifact(registry.resolve(number)) for number in (1, version.number))
    assert after.has_all_items
    for name in ("theta", "covariance"):
        np.testing.assert_array_equal(after.policy[name][:-2], before.policy[name])
    for name in ("context", "rated_user", "rated_item", "learned_events"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.rating_std[:, :-2], before.rating_std)
    old, new = (load_policy(registry.resolve(number)).predict(3, list(range(101, 112))) for number in (1, 2))
    columns = [column for column in old.columns if column != "probability"]
    pd.testing.assert_frame_equal(old[columns], new[columns])


def test_lineage_names_parent_and_change(registry, new_items):
    version = change_items(registry, "champion", new_items, note={"why": "spring list"})
    parent = registry.version(1)
    assert version.lineage["changed_from"] == 1
    assert version.lineage["parents"] == [{"policy_digest": parent.policy_digest}]
    change = {"parent": parent.policy_digest, "added": [501, 502], "retired": [], "restored": []}
    assert version.lineage["catalog_change"] == change
    assert (version.gate, version.note, version.policy_digest) == (
        None,
        {"why": "spring list"},
        version.lineage["policy_digest"],
    )
    assert version.policy_digest != parent.policy_digest
    assert registry.aliases()["champion"] == 1
    assert change_items(registry, "champion", new_items).number == version.number  # again: the same version


def test_std_of_a_new_item_covers_what_genres_and_user_leave_open(registry, new_items):
    change_items(registry, 1, new_items)
    scorer = load_scorer(registry.resolve(2))
    prediction = scorer.predict_one(3)
    assert prediction.std[-1] > scorer.artifact.rating_std[:, :11].mean() / 2
    assert (prediction.std[-2:] > 0).all()


def test_real_rewards_narrow_a_new_item_from_its_own_prior():
    """Before its first reward the std is the regression's; rewards then shrink it by what they say."""
    base = with_genres()
    learned = {**base.metadata, "training": {"rewards": "real"}}
    after = with_items(replace(base, metadata=learned), table((501, "Drama")))
    from recpolicy.inference.scorer import Scorer

    scorer = Scorer(after)
    np.testing.assert_allclose(scorer.predict_one(3).std[-1], after.rating_std[2, -1], rtol=1e-5)
    covariance = after.policy["covariance"].copy()
    covariance[-1] /= 4
    narrowed = Scorer(replace(after, policy={**after.policy, "covariance": covariance}))
    np.testing.assert_allclose(narrowed.predict_one(3).std[-1], after.rating_std[2, -1] / 2, rtol=1e-5)


def test_items_added_twice_rest_on_the_items_of_the_training(registry):
    change_items(registry, 1, table((501, "Drama"), (502, "Horror")))
    change_items(registry, 2, table((503, "Drama")))
    change_items(registry, 1, table((503, "Drama")))
    twice, once = (read_artifact(registry.resolve(number)) for number in (3, 4))
    np.testing.assert_array_equal(twice.item[-1], once.item[-1])
    np.testing.assert_array_equal(twice.policy["covariance"][-1], once.policy["covariance"][-1])
    np.testing.assert_array_equal(twice.policy["added_arm"], [11, 12, 13])
    assert twice.trained_items == 11


def test_a_retired_item_is_masked_in_every_answer(registry):
    version = change_items(registry, 1, retire=[104, 101])
    policy, scorer = load_policy(registry.resolve(version.number)), load_scorer(registry.resolve(version.number))
    assert version.lineage["catalog_change"]["retired"] == [104, 101]
    lists = policy.recommend(list(range(1, 8)), k=11, exclude_rated=False)
    assert set(lists["item_id"]) == set(range(102, 112)) - {104}
    prediction = scorer.predict_one(3)
    assert prediction.probability[[0, 3]].tolist() == [0, 0]
    assert prediction.probability.sum() == pytest.approx(1)
    assert scorer.arm(104) is None
    assert np.isfinite(policy.predict(3, [104])["rating"]).all()  # its rating can still be estimated
    assert policy.predict("new", [102], fold_in={"new": {104: 5.0}})["rating"].notna().all()


def test_arms_that_stay_answer_as_before(registry):
    change_items(registry, 1, retire=[104])
    before, after = (load_scorer(registry.resolve(number)) for number in (1, 2))
    stay = np.delete(np.arange(11), 3)
    np.testing.assert_allclose(after.predict_one(3).score, before.predict_one(3).score[stay], rtol=1e-6)
    np.testing.assert_array_equal(after.artifact.policy["theta"], before.artifact.policy["theta"][stay])


def test_adding_after_retiring_keeps_rows_and_arms_apart(registry):
    change_items(registry, 1, table((501, "Drama"), (502, "Horror")), [103])
    artifact = read_artifact(registry.resolve(2))
    np.testing.assert_array_equal(artifact.action_items, [0, 1, *range(3, 13)])
    np.testing.assert_array_equal(artifact.policy["added_arm"], [10, 11])
    change_items(registry, 2, table((503, "Drama")), [501])
    artifact = read_artifact(registry.resolve(3))
    np.testing.assert_array_equal(artifact.action_items, [0, 1, *range(3, 11), 12, 13])
    np.testing.assert_array_equal(artifact.policy["added_arm"], [10, 11])
    np.testing.assert_array_equal(artifact.retired_items, [2, 11])
    np.testing.assert_allclose(artifact.policy["added_prior"], artifact.policy["covariance"][-2:])
    assert len(artifact.metadata["parents"]) == 2


def bad(registry: Registry, folder: Path, content: str | bytes, name: str = "bad.csv") -> str:
    """The message for a file that cannot be taken; nothing was registered."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecpolicyError) as caught:
        change_items(registry, 1, path)
    assert [version.number for version in registry.versions()] == [1]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item,title\n104,Again\n", "item 104 is in the policy already; leave it out"),
        ("item,title\n501,One\n501,Two\n", "bad.csv:3: item id 501 is already at"),
        ("item,title\nx501,One\n", "item id 'x501'; the policy's ids are whole numbers"),
        ("item,title,genres\n501,One,Dramma\n", "no genre named 'Dramma'. Did you mean 'Drama'? Known: Comedy, Drama"),
        ("item,title,director\n501,One,Varda\n", "column 'director' is no attribute of an item; expected item, title"),
        ("title,genres\nOne,Drama\n", "no column 'item' for the item"),
        ("item,title\n", "no items"),
        ("", "bad.csv"),
        ("item,title\n501,Café\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"item,title\n501,\xff\xfe\x00bad\n\x00\x01", "bad.csv"),
        ("item,title,year\n501,One,soon\n", "bad.csv:2: year 'soon' is not"),
        ("item,title\n,One\n", "bad.csv:2: item id is missing"),
        ("item,title\n99999999999999999999999,One\n", "the policy's ids are whole numbers"),
        ("item,title\n501," + "x" * 10_001 + "\n", "the title of item 501 is not UTF-8 of at most 10,000 characters"),
        ("item,title,year\n501,One,9999999\n", "the year of item 501 is 9999999"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_taken_are_one_line(registry, tmp_path, content, message):
    assert message in bad(registry, tmp_path, content)


def test_a_missing_file_and_too_many_items_are_one_line(registry, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        change_items(registry, 1, tmp_path / "nowhere.csv")
    monkeypatch.setattr(add_items, "MAX_CHANGED", 1)
    assert "2 items; at most 1 at a time" in bad(registry, tmp_path, NEW)
    with pytest.raises(DataError, match="2 items to retire; at most 1 at a time"):
        change_items(registry, 1, retire=[101, 102])


@pytest.mark.parametrize(
    ("retire", "error", "message"),
    [
        ([9], UnknownIdError, "no item with id 9 in this policy"),
        (["104"], UnknownIdError, "the ids are integers: 104 without quotes"),
        ([104, 104], DataError, "item 104 is named twice"),
        (list(range(101, 112)), DataError, "11 items to retire of 11: 0 would be left; expected at least 1"),
        ([], DataError, "no items to add, to retire or to restore"),
    ],
)
def test_items_that_cannot_be_retired_are_one_line(registry, retire, error, message):
    with pytest.raises(error, match=message):
        change_items(registry, 1, retire=retire)
    assert len(registry.versions()) == 1


def test_an_item_retires_once(registry):
    change_items(registry, 1, retire=[104])
    with pytest.raises(DataError, match="item 104 is retired already"):
        change_items(registry, 2, retire=[104])
    with pytest.raises(DataError, match="item 104 is retired; `recpolicy registry restore-items` brings it back"):
        change_items(registry, 2, table((104, "Drama")))


def policy_of(registry: Registry, number: int) -> Artifact:
    return read_artifact(registry.resolve(number))


def check_arms(artifact: Artifact, before: Artifact) -> None:
    """Check that a policy has the arms of another, and no item that is retired."""
    np.testing.assert_array_equal(artifact.action_items, before.action_items)
    for name, values in before.policy.items():
        np.testing.assert_array_equal(artifact.policy[name], values, err_msg=name)
    assert artifact.retired_items.tolist() == []


def test_a_restored_item_answers_as_before(registry):
    change_items(registry, 1, retire=[104, 111])
    change_items(registry, 2, retire=[101])
    version = change_items(registry, 3, restore=[101, 104, 111])  # from two versions
    check_arms(policy_of(registry, 4), policy_of(registry, 1))
    assert version.lineage["catalog_change"]["restored"] == [101, 104, 111]
    before, after = (load_scorer(registry.resolve(number)) for number in (1, 4))
    np.testing.assert_array_equal(after.predict_one(3).score, before.predict_one(3).score)
    assert set(load_policy(registry.resolve(4)).recommend([3], k=11, exclude_rated=False)["item_id"]) >= {101, 104, 111}
    assert change_items(registry, 3, restore=[101, 104, 111]).number == 4
    some = policy_of(registry, change_items(registry, 3, restore=[111]).number)
    assert some.retired_items.tolist() == [0, 3]
    assert some.action_items.tolist() == [1, 2, *range(4, 11)]
    again = policy_of(registry, change_items(registry, 4, retire=[111], restore=[]).number)
    assert again.retired_items.tolist() == [10]


def test_a_restored_item_that_was_added_keeps_its_own_prior(registry, new_items):
    change_items(registry, 1, new_items)
    change_items(registry, 2, table((503, "Horror")), [501, 104])
    change_items(registry, 3, restore=[501])
    change_items(registry, 4, restore=[104], retire=[503])
    artifact, before = policy_of(registry, 5), policy_of(registry, 2)
    for name in ("theta", "covariance", "added_arm", "added_prior"):
        np.testing.assert_array_equal(artifact.policy[name], before.policy[name])
    assert artifact.retired_items.tolist() == [13]
    change_items(registry, 5, restore=[503])
    np.testing.assert_array_equal(policy_of(registry, 6).policy["added_arm"], [11, 12, 13])
    np.testing.assert_array_equal(
        policy_of(registry, 6).policy["added_prior"][-1], policy_of(registry, 3).policy["added_prior"][-1]
    )


def trained_again(registry: Registry, number: int, folder: Path, **config: float) -> None:
    """Register a version as a retraining of another leaves it: all arms have moved."""
    old = policy_of(registry, number)
    parent = {"policy_digest": old.metadata["policy_digest"], "log": None}
    metadata = {name: value for name, value in old.metadata.items() if name != "catalog_change"}
    metadata |= {"parents": [*old.metadata["parents"], parent]}
    metadata |= {"config": {"agent": config}} if config else {}
    new = replace(old, policy={**old.policy, "theta": old.policy["theta"] + 1}, metadata=metadata)
    new = replace(new, metadata={**metadata, "policy_digest": policy_digest(new)})
    registry.register(write(folder, new))


def test_an_item_comes_back_after_a_training_where_arms_are_separate(registry, tmp_path):
    change_items(registry, 1, retire=[104])
    trained_again(registry, 2, tmp_path / "trained")
    change_items(registry, 3, restore=[104])
    theta, before = policy_of(registry, 4).policy["theta"], policy_of(registry, 1).policy["theta"]
    moved = np.ones((11, 1))
    moved[3] = 0
    np.testing.assert_allclose(theta, before + moved, rtol=1e-6)
    trained_again(registry, 2, tmp_path / "forgets", forgetting=0.9, precision=20.0)
    with pytest.raises(ConfigError, match=r"item 104 was retired before the last training.*roll back to version 1,"):
        change_items(registry, 5, restore=[104])
    assert len(registry.versions()) == 5


def test_items_that_cannot_be_restored_are_one_line(registry, tmp_path):
    change_items(registry, 1, retire=[104])
    for restore, error, message in (
        ([105], DataError, "item 105 is not retired"),
        ([9], UnknownIdError, "no item with id 9 in this policy"),
        ([104, 104], DataError, "item 104 is named twice"),
    ):
        with pytest.raises(error, match=message):
            change_items(registry, 2, restore=restore)
    other = Registry(tmp_path / "other")
    other.register(registry.resolve(2))
    with pytest.raises(ConfigError, match="no version of this registry that the policy comes from recommends item 104"):
        change_items(other, 1, restore=[104])
    assert [len(each.versions()) for each in (registry, other)] == [2, 1]


def test_versions_that_cannot_change_are_one_line(registry, new_items, tmp_path):
    with pytest.raises(ConfigError, match="no version 9; registered: 1"):
        change_items(registry, 9, new_items)
    with pytest.raises(ConfigError, match="no version has the alias challenger"):
        change_items(registry, "challenger", new_items)
    write_feature_policy(tiny_policy(), tmp_path / "features")
    registry.register(tmp_path / "features")
    with pytest.raises(ConfigError, match="version 2 is not a policy of items"):
        change_items(registry, 2, new_items)
    path = registry.resolve(1) / "arrays.npz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="missing or changed since it was written"):
        change_items(registry, 1, new_items)


def test_text_ids_are_those_of_the_file(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write(tmp_path / "text", tiny_artifact(text=True)))
    (tmp_path / "new.csv").write_text("item,title\n501,One\n")
    version = change_items(registry, 1, tmp_path / "new.csv")
    assert version.lineage["catalog_change"]["added"] == ["501"]
    with pytest.raises(DataError, match="item id 501; the policy's ids are text"):
        change_items(registry, 1, table((501, "")))


def test_a_policy_without_genres_gives_the_mean_item():
    after = with_items(tiny_artifact(), table((501, ""), (502, "")))
    np.testing.assert_allclose(after.item[-1], after.item[:11].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(after.offset[-2:], after.offset[:11].mean(), rtol=1e-5)


@pytest.mark.parametrize("death", [KeyboardInterrupt, SystemExit])
def test_a_killed_process_leaves_the_registry_as_it_was(registry, new_items, monkeypatch, death):
    def die(*_):
        raise death

    with monkeypatch.context() as patch:
        patch.setattr("recpolicy.registry.model_registry.write_record", die)
        with pytest.raises(death):
            change_items(registry, 1, new_items)
    assert [version.number for version in registry.versions()] == [1]
    assert change_items(registry, 1, new_items).number == 2


def test_forgetting_would_lose_the_prior_of_new_arms():
    artifact = with_genres()
    forgetful = {**artifact.metadata, "config": {"agent": {"forgetting": 0.99, "precision": 20.0}}}
    with pytest.raises(ConfigError, match=r"linucb with forgetting 0\.99 cannot take new items"):
        with_items(replace(artifact, metadata=forgetful), table((501, "Drama")))
    assert len(without_items(replace(artifact, metadata=forgetful), [104]).action_items) == 10
