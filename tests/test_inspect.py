"""The questions of docs/inspect.md get answers from a run as it is."""

import re
from pathlib import Path

import pytest

from xdc_core.runs.run import Run

duckdb = pytest.importorskip("duckdb")
TEXT = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^## \d+\. (.+?)\n.*?```sql\n(.+?)```", TEXT, re.MULTILINE | re.DOTALL)
# Of 48 digits, none of which was rejected, three neighbours a round; what else is asked for is there.
EMPTY_HERE = ("What did not make it into the corpus, and why?",)


def test_the_page_has_its_ten_questions() -> None:
    assert len(QUESTIONS) == TEXT.count("```sql") == 10


@pytest.mark.parametrize(("question", "sql"), QUESTIONS, ids=[question for question, _ in QUESTIONS])
def test_a_question_gets_its_answer(worked_run: Run, question: str, sql: str) -> None:
    sql = sql.replace("runs/first", str(worked_run.root)).replace("corpora/first", str(worked_run.corpus))
    answer = duckdb.sql(sql)
    rows = answer.fetchall()
    assert bool(rows) != (question in EMPTY_HERE)
    if question == "What is every cluster made of?":
        assert sum(row[1] for row in rows) == 48
        assert all(0 < row[3] <= 1 for row in rows)
    if question == "Do video and audio clusters agree?":
        assert sum(sum(row[1:]) for row in rows) == 48
    if question == "What resembles this clip?":
        assert all(-1 <= row[1] <= 1.001 for row in rows)


def test_pandas_reads_the_same(worked_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    (code,) = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)
    code = code.replace("runs/first", str(worked_run.root)).replace("corpora/first", str(worked_run.corpus))
    exec(code, {})
    assert "cluster" in capsys.readouterr().out
