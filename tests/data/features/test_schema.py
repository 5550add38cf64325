"""Schemas: TOML and plain forms, and one line for each fault."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError
from recpolicy.data.features.schema import (
    FEATURE_TYPES,
    BooleanFeature,
    CategoryFeature,
    FeatureSchema,
    JsonFeature,
    NumberFeature,
    TagsFeature,
    TimestampFeature,
    read_schema,
    schema_from_dict,
    unused_names,
)

EVERY_TYPE = """
bits = 12
interactions = false

[context.age]
type = "number"
clip = [0, 99.5]

[context.hour]
type = "number"
scale = "bins"
edges = [6, 12, 18]

[context."device.os"]
type = "category"
encoding = "embedding"
dim = 4

[context.subscribed]
type = "boolean"

[context.time]
type = "timestamp"
parts = ["hour"]
utc_offset_hours = -3.5

[context.session]
type = "json"

[action.genres]
type = "tags"
encoding = "hashed"
size = 32
"""


def read(tmp_path, text):
    path = tmp_path / "schema.toml"
    path.write_text(text, encoding="utf-8")
    return read_schema(path)


def test_reads_every_type(tmp_path):
    schema = read(tmp_path, EVERY_TYPE)
    assert schema == FeatureSchema(
        context={
            "age": NumberFeature(clip=(0, 99.5)),
            "hour": NumberFeature(scale="bins", edges=(6, 12, 18)),
            "device.os": CategoryFeature(encoding="embedding", dim=4),
            "subscribed": BooleanFeature(),
            "time": TimestampFeature(parts=("hour",), utc_offset_hours=-3.5),
            "session": JsonFeature(),
        },
        action={"genres": TagsFeature(encoding="hashed", size=32)},
        interactions=False,
        bits=12,
    )
    assert read(tmp_path, schema.to_toml()) == schema
    assert schema_from_dict(schema.as_dict()) == schema


@given(name=st.text(min_size=1, max_size=20).filter(str.isprintable), low=st.floats(-1e9, 0), high=st.floats(1, 1e9))
def test_any_name_and_number_survives_toml(tmp_path_factory, name, low, high):
    schema = FeatureSchema(context={name: NumberFeature(clip=(low, high))}, action={name: BooleanFeature()})
    assert read(tmp_path_factory.mktemp("schema"), schema.to_toml()) == schema


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no features"),
        ("[context]\n", "has no features"),
        ("[contexts.age]\ntype='number'", "no setting named 'contexts'. Did you mean 'context'?"),
        ("bits = 21\n[context.a]\ntype='number'", "bits is 21; expected a whole number from 10 to 20"),
        ("bits = true\n[context.a]\ntype='number'", "bits is True"),
        ("interactions = 1\n[context.a]\ntype='number'", "interactions is 1; expected true or false"),
        ("[context.age]\ntype='numeric'", "[context.age]: no type of feature named 'numeric'"),
        ("[context.age]\nscale='none'", "[context.age]: type is missing; expected one of number"),
        ("[context.device.os]\ntype='category'", "[context.device]: type is missing; expected one of number, category"),
        ("[context.device.os]\ntype='category'", "A name with points needs quotes."),
        ("[context.age]\ntype='number'\nclips=[0, 1]", "[context.age]: no setting named 'clips'. Did you mean 'clip'?"),
        ("[context.age]\ntype='number'\nscale='log'", "[context.age]: scale is 'log'"),
        ("[context.age]\ntype='number'\nclip=[2, 1]", "clip is [2.0, 1.0]; expected [smallest, largest]"),
        ("[context.age]\ntype='number'\nedges=[1, 1]", "edges is [1.0, 1.0]; expected increasing numbers"),
        ("[context.t]\ntype='timestamp'\nparts=[]", "parts is []; expected hour, weekday or both"),
        ("[context.t]\ntype='timestamp'\nparts=['hour', 'hour']", "expected hour, weekday or both"),
        ("[context]\nage = 3", "[context.age] is 3; expected a table with a type"),
        ("context = 3", "context is 3; expected tables [context.NAME]"),
        ("[context.'']\ntype='number'", "needs a name of 1 to 200 printable characters"),
        ("[context.age\n", "not valid TOML"),
    ],
)
def test_each_fault_is_one_line_with_the_file(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert "schema.toml" in str(error.value)
    assert "\n" not in str(error.value).replace("\n", "", 0 if "TOML" not in message else 1)


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "feature_schema.md"


@pytest.mark.parametrize("kind", FEATURE_TYPES)
def test_every_option_is_on_the_reference_page_with_its_default(kind):
    section = PAGE.read_text().split(f"## `{kind}`")[1].split("\n## ")[0]
    fields = dataclasses.fields(FEATURE_TYPES[kind])
    for field in fields:
        default = "none" if field.default is None else json.dumps(field.default)
        assert f"| `{field.name}` | {default} |" in section
    assert section.count("\n| `") == len(fields)


def test_the_example_of_the_reference_page_is_a_schema(tmp_path):
    schema = read(tmp_path, PAGE.read_text().split("```toml\n")[1].split("```")[0])
    assert set(schema.context) == {"age", "device.os", "time"}


def test_finds_keys_that_no_feature_reads():
    features = {"age": NumberFeature(), "device.os": CategoryFeature()}
    assert unused_names(["age", "device", "colour", "os"], features) == ["colour", "os"]
