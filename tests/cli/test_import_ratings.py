"""What a rating means in an imported file, and what a second import of the same file does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.command_line import Run

from smallai_assistant import Assistant, AssistantConfig, InvalidInput
from smallai_assistant.cli.rating_scale import RatingScale


@pytest.fixture
def library(tmp_path: Path, models_dir: Path) -> Iterator[Assistant]:
    with Assistant(AssistantConfig(data_dir=tmp_path / "library", models_dir=models_dir, device="cpu")) as assistant:
        yield assistant


def write_log(folder: Path, column: str, values: list[float], *, dated: bool = True) -> Path:
    file = folder / f"{column}.csv"
    rows = [f"reader{n},book{n},{value:g}{f',{n + 1}' if dated else ''}" for n, value in enumerate(values)]
    file.write_text("\n".join([f"user,item,{column}{',at' if dated else ''}", *rows]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("column", ["rating", "Stars", "user_id,score"])
@pytest.mark.parametrize(
    ("values", "scale", "signs"),
    [
        ([1, 2, 3, 4, 5], [1, 5], "--+++"),
        ([0.5, 2.5, 4.5], [1, 5], "--+"),
        ([0, 1, 4], [0, 5], "--+"),
        ([0, 4, 5, 9], [0, 10], "--++"),
        ([2, 5, 8], [1, 10], "--+"),
        ([10, 49, 50, 90], [0, 100], "--++"),
    ],
)
def test_the_scale_of_ratings_is_recognized(
    run: Run, library: Assistant, tmp_path: Path, column: str, values: list[float], scale: list[float], signs: str
) -> None:
    file = write_log(tmp_path, column.split(",")[-1], values)
    (row,) = run("interactions", "import", file, "--json", assistant=library).rows
    assert row["scale"] == scale
    assert (row["for"], row["against"]) == (signs.count("+"), signs.count("-"))
    stored = sorted(library.items.interactions(), key=lambda row: row.at)
    assert "".join("+" if row.weight > 0 else "-" for row in stored) == signs


def test_a_weight_is_the_strength_of_a_choice(run: Run, library: Assistant, tmp_path: Path) -> None:
    done = run("interactions", "import", write_log(tmp_path, "weight", [1, 2]), assistant=library)
    assert "ratings" not in done.err
    assert sorted(row.weight for row in library.items.interactions()) == [1.0, 2.0]


@pytest.mark.parametrize("values", [[1, 1, 1], [0, 1], [-2, 3], [7, 400]])
def test_an_unclear_scale_is_asked_for(run: Run, library: Assistant, tmp_path: Path, values: list[float]) -> None:
    file = write_log(tmp_path, "rating", values)
    done = run("interactions", "import", file, assistant=library)
    assert done.code == 1
    assert "--scale" in done.err
    assert library.items.interactions() == []
    scale = f"--scale={min(values) - 1:g}:{max(values):g}"
    assert run("interactions", "import", file, scale, assistant=library).code == 0
    assert len(library.items.interactions()) == len(values)


def test_a_rating_outside_of_the_scale_names_its_line(run: Run, library: Assistant, tmp_path: Path) -> None:
    done = run("interactions", "import", write_log(tmp_path, "rating", [4, 7]), "--scale", "1-5", assistant=library)
    assert done.code == 1
    assert "line 3: the rating is 7, the scale is 1 to 5" in done.err


@pytest.mark.parametrize("text", ["", "5", "5-1", "a-b", "1-1"])
def test_a_wrong_scale_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        RatingScale.parse(text)


@pytest.mark.parametrize("dated", [True, False])
def test_the_same_file_again_changes_nothing(run: Run, library: Assistant, tmp_path: Path, dated: bool) -> None:
    file = write_log(tmp_path, "rating", [1, 3, 5], dated=dated)
    run("interactions", "import", file, assistant=library)
    before = library.items.interactions()
    done = run("interactions", "import", file, assistant=library)
    assert done.out == "imported 0 interactions\n"
    assert "3 lines are there already" in done.err
    assert library.items.interactions() == before


def test_a_future_date_counts_as_now_once(run: Run, library: Assistant, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    ahead = datetime.now(UTC) + timedelta(days=400)
    file.write_text(f"user,item,at\nreader,book,{ahead.isoformat()}\n", encoding="utf-8")
    for n_new in (1, 0):
        done = run("interactions", "import", file, assistant=library)
        assert done.out == f"imported {n_new} interaction{'s' if n_new == 0 else ''}\n"
        assert "lines with a date in the future: 1;" in done.err
    (row,) = library.items.interactions()
    assert row.at <= datetime.now(UTC).timestamp()
