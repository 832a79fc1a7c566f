"""Settings: three sources, checked types, and errors that name the place and the nearest key."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallai_assistant import AssistantConfig, InvalidInput
from smallai_assistant.config import load_config, make_options
from smallai_assistant.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_then_environment_then_keywords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path,
        'device = "cpu"\nmemory_budget_mb = 1\nintent_threshold = 1\n'
        '[models]\nchat = "a"\nspeech = "s"\n[tasks.text-generation]\nmax_tokens = 9\n',
    )
    monkeypatch.setenv("SMALLAI_MEMORY_BUDGET_MB", "2")
    monkeypatch.setenv("SMALLAI_MODELS__CHAT", "b")
    monkeypatch.setenv("SMALLAI_REPLY_TO_SPEECH", "true")
    monkeypatch.setenv("SMALLAI_DISABLED_PLUGINS", "x, y")
    monkeypatch.setenv("SMALLAI_TASKS__TEXT_GENERATION__TEMPERATURE", "0.5")
    config = load_config(path, memory_budget_mb=3, data_dir=Path("~/d"))
    assert config.device == "cpu"
    assert config.memory_budget_mb == 3
    assert config.intent_threshold == 1.0
    assert isinstance(config.intent_threshold, float)
    assert (config.models.chat, config.models.speech) == ("b", "s")
    assert config.reply_to_speech is True
    assert config.disabled_plugins == ("x", "y")
    assert config.tasks == {"text-generation": {"max_tokens": 9, "temperature": "0.5"}}
    assert config.data_dir == Path.home() / "d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\ndevise = "cpu"', r"config\.toml:2: key 'devise' is unknown .*did you mean 'device'"),
        ('[models]\n# here\nchatt = "x"', r"config\.toml:3: key 'chatt' is unknown .*did you mean 'chat'"),
        ("memory_budget_mb = 'many'", r"config\.toml:1: key 'memory_budget_mb' must be int"),
        ("memory_budget_mb = true", "must be int"),
        ("reply_to_speech = 3", "must be bool"),
        ("disabled_plugins = 3", "must be a list"),
        ("models = 3", "must be a table"),
        ('[models]\nchat_quantization = "int9"', "did you mean 'int8'"),
        ('device = "tpu"', "device is 'tpu'"),
        ("memory_budget_mb = -1", "memory_budget_mb is -1"),
        ("intent_threshold = nan", "intent_threshold is nan"),
        ("device = ", "config.toml"),
        ("[tasks]\ntext-generation = 3", r"config\.toml:2: key 'text-generation' must be a table, not 3"),
        ("[[tasks.text-generation]]", r"key 'tasks\.text-generation' must be a table"),
        ("tasks = 3", "must be a table"),
        ('\ndata_dir = "~nobody-of-that-name/x"', r"config\.toml:2: key 'data_dir' is .*nobody-of-that-name"),
        ('models_dir = "a\\u0000b"', r"config\.toml:1: key 'models_dir' holds a NUL character"),
        ('[models]\nchat = "a\\u0000b"', r"config\.toml:2: key 'chat' holds a NUL character"),
        ('data_dir = "a\\ud800b"', r"config\.toml"),
        ("device = 'cuda:٣'", "device is"),
        ("answer_timeout_s = nan", "answer_timeout_s is nan"),
        ("answer_timeout_s = -1", "give seconds"),
        (f"memory_budget_mb = {10**400}", "memory_budget_mb is 1"),
        ("device = 'cpu'\nmodels = " + 50_000 * "[", r"config\.toml:2: .*recursion"),
        ("models = " + 9_000 * "{a=", r"config\.toml:1: .*recursion"),
        ("device = 'cpu'\n\nintent_threshold = " + 5_000 * "9" + "\ndevice = 'x'", r"config\.toml:3: .*digits"),
        ("device = 'cpu'\n" + 1_200 * "a." + "b = 1", r"config\.toml:2: a line with more than 1,000 dots"),
        (70_000 * "#", r"config\.toml: more than 65,536 bytes"),
    ],
)
def test_wrong_settings_say_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.hint or "must be" in caught.value.message
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b'\xef\xbb\xbfdevice = "cpu"')
    assert load_config(path).device == "cpu"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in ((Path("a\0b"), "null byte"), (tmp_path, "directory"), (Path("/dev/zero"), "more than")):
        with pytest.raises(ConfigError, match=message):
            load_config(path)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_other_file_is_settings_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(path), AssistantConfig)


def test_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b'device = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 10"):
        load_config(path)


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_wrong_variables_and_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"keyword argument 'dta_dir' is unknown .*data_dir"):
        load_config(dta_dir=Path("x"))
    monkeypatch.setenv("SMALLAI_DEVCE", "cpu")
    with pytest.raises(ConfigError, match=r"environment variable SMALLAI_DEVCE is unknown .*device"):
        load_config()


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_config()
    for name in ("DATA_DIR", "DEVICE", "MODELS__CHAT", "NOT_A_KEY"):
        monkeypatch.setenv(f"SMALLAI_{name}", "")
    assert load_config() == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SMALLAI_MODELS", "SMALLAI_MODELS__CHAT"),
        ("SMALLAI_DEVICE", "SMALLAI_device"),
        ("SMALLAI_TASKS__TEXT_GENERATION", "SMALLAI_TASKS__TEXT_GENERATION__MAX_TOKENS"),
        ("SMALLAI_DATA_DIR", "SMALLAI_DATA_DIR__X"),
    ],
)
def test_two_variables_for_one_key(monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    monkeypatch.setenv(first, "1")
    monkeypatch.setenv(second, "2")
    with pytest.raises(ConfigError, match=f"{first} and {second} set the same key"):
        load_config()


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("SMALLAI_SECTION__KEY", "1", "environment variable SMALLAI_SECTION__KEY is unknown"),
        ("SMALLAI_MODELS__CHATT", "1", "SMALLAI_MODELS__CHATT is unknown .*'chat'"),
        ("SMALLAI_TASKS__TEXT_GENERATION", "1", "SMALLAI_TASKS__TEXT_GENERATION must be a table"),
        ("SMALLAI_MODELS_DIR", "~nobody-of-that-name", "SMALLAI_MODELS_DIR is"),
        ("SMALLAI_MEMORY_BUDGET_MB", "9" * 5_000, "SMALLAI_MEMORY_BUDGET_MB must be int"),
    ],
)
def test_errors_name_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, message: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=message):
        load_config()


@dataclass(frozen=True, slots=True)
class Options:
    n: int = 1
    ratio: float = 0.5
    names: tuple[str, ...] = ()
    seed: int | None = None


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.integers(),
            "ratio": st.floats(allow_nan=False),
            "names": st.lists(st.text()).map(tuple),
            "seed": st.none() | st.integers(),
        },
    )
)
def test_options_keep_every_right_value(values: dict[str, object]) -> None:
    options = make_options(Options, values, base=Options(n=7))
    for name in ("n", "ratio", "names", "seed"):
        assert getattr(options, name) == values.get(name, getattr(Options(n=7), name))


@given(
    st.dictionaries(
        st.text() | st.integers(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
    )
)
def test_any_other_table_is_options_or_invalid_input(values: dict[Any, object]) -> None:
    try:
        options = make_options(Options, values)
    except InvalidInput:
        return
    assert isinstance(options, Options)


@given(st.text(), st.integers(), st.floats())
def test_config_holds_its_bounds_or_refuses(device: str, budget: int, threshold: float) -> None:
    try:
        config = AssistantConfig(device=device, memory_budget_mb=budget, intent_threshold=threshold)
    except ConfigError:
        return
    assert config.memory_budget_mb >= 0
    assert 0 <= config.intent_threshold <= 1


def test_a_folder_may_be_a_string() -> None:
    config = AssistantConfig(data_dir="here", models_dir="there")  # type: ignore[arg-type]
    assert (config.data_dir, config.models_dir) == (Path("here"), Path("there"))
    assert AssistantConfig(data_dir="~/d").data_dir == Path.home() / "d"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"data_dir is 3") as caught:
        AssistantConfig(data_dir=3)  # type: ignore[arg-type]
    assert caught.value.hint == "give a path"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"when": "24:00"}, "when"),
        ({"when": "3:00"}, "when"),
        ({"when": "always"}, "when"),
        ({"min_new_feedback": 0}, "min_new_feedback"),
        ({"budget_minutes": 0.0}, "budget_minutes"),
        ({"budget_minutes": float("nan")}, "budget_minutes"),
        ({"max_versions": 2}, "max_versions"),
        ({"max_versions_mb": 0}, "max_versions_mb"),
    ],
)
def test_wrong_settings_of_learning_are_named(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"learning\.{name} is") as caught:
        load_config(learning=values)
    assert caught.value.hint


def test_cycles_start_by_hand_unless_a_time_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config().learning.when == "manual"
    monkeypatch.setenv("SMALLAI_LEARNING__WHEN", "03:30")
    monkeypatch.setenv("SMALLAI_LEARNING__MIN_NEW_FEEDBACK", "5")
    learning = load_config().learning
    assert (learning.when, learning.min_new_feedback) == ("03:30", 5)
