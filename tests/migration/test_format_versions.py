"""docs/conventions.md names the version of each file format that the code writes."""

import re
from pathlib import Path

import pytest

from recpolicy.data import bandit_log_files, feature_log_files, ratings_store, session_log_files, slate_log_files
from recpolicy.inference import artifact, feature_artifact, lookup_tables, tuned_layer
from recpolicy.models import rating_model_io
from recpolicy.registry import aliases, version_files
from recpolicy.server.backup import create
from recpolicy.server.online import checkpoints
from recpolicy.workflows import evaluation_files, gating, imported_logs, weight_logs

_PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"
_WRITTEN = {
    module.FORMAT: module.FORMAT_VERSION
    for module in (
        artifact, bandit_log_files, checkpoints, create, evaluation_files, feature_artifact, feature_log_files,
        rating_model_io, ratings_store, session_log_files, slate_log_files, tuned_layer, weight_logs,
    )
} | {
    module._FORMAT: module._FORMAT_VERSION for module in (aliases, lookup_tables, version_files)
} | {gating.RECORD_FORMAT: gating.RECORD_VERSION, imported_logs._KIND: imported_logs._VERSION,
     feature_artifact.ENCODER_FORMAT: feature_artifact.ENCODER_VERSION}  # fmt: skip


@pytest.mark.parametrize("name", _WRITTEN)
def test_the_page_has_the_version_that_is_written(name):
    rows = re.findall(rf"^\| {name} \| (\d+) \|", _PAGE.read_text(), re.MULTILINE)
    assert rows == [str(_WRITTEN[name])]


def test_the_page_has_no_other_format():
    assert set(re.findall(r"^\| (recpolicy [a-z ]+) \| \d+ \|", _PAGE.read_text(), re.MULTILINE)) == set(_WRITTEN)
