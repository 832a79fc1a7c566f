"""What a task yields is checked by value: what passes can be shown, stored and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted import ScriptedPlugin, make_task

from smallai_assistant import (
    Assistant,
    Details,
    ImagePart,
    ItemPart,
    LabelPart,
    Notice,
    SegmentPart,
    TextPart,
)
from smallai_assistant.conversation.stream_items import checked_item
from smallai_assistant.errors import PluginError

NAN, INF = float("nan"), float("inf")
DEEP: Any = {}
for _ in range(5_000):
    DEEP = {"a": DEEP}
CIRCLE: dict[str, Any] = {}
CIRCLE["self"] = CIRCLE
WRONG: list[Any] = [
    None,
    42,
    "text",
    [TextPart("x")],
    TextPart(None),  # type: ignore[arg-type]
    TextPart(b"x"),  # type: ignore[arg-type]
    LabelPart("cat", 1, NAN),
    LabelPart("cat", 1, INF),
    LabelPart("cat", 1, True),
    LabelPart("cat", None, 0.5),  # type: ignore[arg-type]
    LabelPart("cat", np.int64(3), 0.5),  # type: ignore[arg-type]
    LabelPart("cat", 1, np.float32(0.5)),  # type: ignore[arg-type]
    LabelPart(None, 1, 0.5),  # type: ignore[arg-type]
    LabelPart("cat", 10**5_000, 0.5),
    SegmentPart("x", None, 1.0),  # type: ignore[arg-type]
    SegmentPart("x", 0.0, NAN),
    ItemPart("1", "a", "high", ""),  # type: ignore[arg-type]
    ItemPart("1", None, 0.5, ""),  # type: ignore[arg-type]
    ImagePart(data="x"),  # type: ignore[arg-type]
    Notice("code", None),  # type: ignore[arg-type]
    Notice(3, "text"),  # type: ignore[arg-type]
    Details(None),  # type: ignore[arg-type]
    Details([("a", 1)]),  # type: ignore[arg-type]
    Details({"a": NAN}),
    Details({"a": {1, 2}}),
    Details({"a": np.zeros(2)}),
    Details({3: "a"}),  # type: ignore[dict-item]
    Details({"a": DEEP}),
    Details(CIRCLE),
    Details({"a": "x" * 1_100_000}),
]


@pytest.mark.parametrize("item", WRONG, ids=lambda item: type(item).__name__)
def test_a_wrong_value_is_an_error_of_the_task_and_the_next_answer_works(tmp_path: Path, item: Any) -> None:
    items = [item]

    def script(_: object) -> Any:
        yield TextPart("start")
        if items:
            yield items.pop()

    with Assistant(data_dir=tmp_path, plugins=[ScriptedPlugin(make_task(script))], device="cpu") as assistant:
        session = assistant.session()
        with pytest.raises(PluginError, match=r"ScriptedTask\.run must be a generator .*; it yielded") as caught:
            _ = session.send("one", task="scripted").text
        assert len(str(caught.value)) < 500
        assert session.send("two", task="scripted").text == "start"
        assistant.store.flush()
        assert [turn.error for turn in assistant.store.turns(session.id)] == ["plugin_error", None]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_details_that_are_json_pass_as_they_are_read_back(values: dict[str, Any]) -> None:
    item = checked_item(Details(values))
    assert isinstance(item, Details)
    assert item.values == json.loads(json.dumps(values))


def test_details_cannot_be_changed_after_they_were_yielded() -> None:
    values = {"a": [1]}
    item = checked_item(Details(values))
    values["a"].append(2)
    assert isinstance(item, Details)
    assert item.values == {"a": [1]}


@given(st.text(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False))
def test_right_parts_pass_unchanged(text: str, number: int, score: float) -> None:
    for item in (TextPart(text), LabelPart(text, number, score), ItemPart(text, text, score, text), Notice(text, text)):
        assert checked_item(item) is item
