"""Configs from files and words: what is accepted, and errors that name file and key."""

from dataclasses import field, replace
from typing import Annotated

import pytest
from annotated_types import Gt
from pydantic import NonNegativeFloat

from recpolicy.core.config import as_dict, build, config_dataclass, read_toml
from recpolicy.core.errors import ConfigError


@config_dataclass
class Config:
    alpha: NonNegativeFloat = 1.0
    layers: tuple[Annotated[int, Gt(0)], ...] = (8, 8)

    def __post_init__(self):
        if len(self.layers) > 3:
            raise ConfigError(f"layers has {len(self.layers)} entries; expected at most 3")


@config_dataclass
class Required:
    name: str


@config_dataclass
class Whole:
    part: Config = field(default_factory=Config)
    maybe: Config | None = None


def test_nothing_given_is_the_default():
    assert build(Config, {}) == Config()


def test_plain_types_are_coerced():
    built = build(Config, {"alpha": 2, "layers": [4]})
    assert built == Config(alpha=2.0, layers=(4,))
    assert isinstance(built.alpha, float)


def test_a_config_within_the_config_is_built():
    assert build(Whole, {"part": {"alpha": 2}, "maybe": {"layers": [3]}}) == Whole(
        part=Config(alpha=2.0), maybe=Config(layers=(3,))
    )
    assert build(Whole, {"part": Config(alpha=3.0)}).part.alpha == 3.0


def test_words_of_the_command_line_become_numbers():
    assert build(Config, {"alpha": "0.5"}).alpha == 0.5


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (Config, {"alpah": 1}, r"^run\.toml \[linucb\]: no setting named 'alpah'. Did you mean 'alpha'\?"),
        (Config, {"alpha": "much"}, r"^run\.toml \[linucb\]: alpha is 'much': expected a valid number"),
        (Config, {"layers": [8, "x"]}, r"^run\.toml \[linucb\]: layers\.1 is 'x': expected a valid integer"),
        (Config, {"alpha": -1}, r"^run\.toml \[linucb\]: alpha is -1: expected greater than or equal to 0"),
        (Config, {"layers": [1] * 4}, r"^run\.toml \[linucb\]: layers has 4 entries; expected at most 3$"),
        (Whole, {"part": {"alpah": 1}}, r"^run\.toml \[linucb\]: part: no setting named 'alpah'"),
        (Whole, {"maybe": {"alpah": 1}}, r"^run\.toml \[linucb\]: maybe: no setting named 'alpah'"),
        (
            Whole,
            {"part": {"alpha": -1}},
            r"^run\.toml \[linucb\]: part\.alpha is -1: expected greater than or equal to 0$",
        ),
        (Required, {}, r"^run\.toml \[linucb\]: name is missing$"),
    ],
)
def test_error_names_file_and_key(config, values, message):
    with pytest.raises(ConfigError, match=message):
        build(config, values, where="run.toml [linucb]")


def test_toml_gives_its_tables(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[linucb]\nalpha = 2\n", encoding="utf-8")
    assert read_toml(path) == {"linucb": {"alpha": 2}}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"alpha = \n", r"run\.toml: not valid TOML: .*line 1"), (b"a = '\xff'", r"run\.toml: not valid TOML")],
)
def test_broken_toml_is_named(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such config file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=f"{tmp_path.name}: cannot be read"):
        read_toml(tmp_path)


def test_config_survives_the_way_to_json_and_back():
    config = Config(alpha=0.25, layers=(3, 2))
    assert as_dict(config) == {"alpha": 0.25, "layers": [3, 2]}
    assert build(Config, as_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": -1}, r"^Config: alpha is -1: expected greater than or equal to 0"),
        ({"alpha": float("nan")}, r"^Config: alpha is nan: expected "),
        ({"alpah": 1}, r"^Config: no setting named 'alpah'. Did you mean 'alpha'\?"),
        ({"layers": (0,)}, r"^Config: layers\.0 is 0: expected greater than 0$"),
        ({"layers": (1, 1, 1, 1)}, r"^Config: layers has 4 entries"),
    ],
)
def test_the_constructor_names_class_setting_and_value(values, message):
    with pytest.raises(ConfigError, match=message):
        Config(**values)


def test_a_changed_copy_is_checked_too_and_nothing_can_be_set():
    assert replace(Config(), alpha=2.0).alpha == 2.0
    with pytest.raises(ConfigError, match="alpha is -1"):
        replace(Config(), alpha=-1)
    with pytest.raises(AttributeError):
        Config().alpha = 3.0
