"""Answers as columns, in which predictions are written."""

from typing import Any

import pyarrow as pa

from atspeed.recommender.answers import Answer

RECOMMENDED = pa.list_(pa.struct({"items": pa.list_(pa.string()), "sid": pa.list_(pa.string()), "score": pa.float64()}))
"""Type of the column ``recommended``: best first."""
ANSWER_FIELDS = (pa.field("recommended", RECOMMENDED), pa.field("target_calls", pa.int64()))
"""Columns of an answer."""


def answer_record(answer: Answer) -> dict[str, Any]:
    """Return the values of :data:`ANSWER_FIELDS` for an answer, ready for JSON."""
    return {"recommended": [vars(each) for each in answer.recommended], "target_calls": answer.target_calls}
