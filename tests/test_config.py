"""Settings: three sources, checked types, and errors that name the place and the nearest key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    ],
)
def test_wrong_settings_say_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


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
    with pytest.raises(ConfigError, match=r"environment variable 'devce' is unknown .*device"):
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


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())))
def test_any_other_table_is_options_or_invalid_input(values: dict[str, object]) -> None:
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
