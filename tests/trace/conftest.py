"""A small search as its trace tells it."""

import pytest

PAGE = {"prefill": 5, "decode": 30, "verify": 0, "dropped": 4, "recomputed": 0, "cached": 15, "calls": 12, "flops": 1e6}
EVENTS = [
    ("request", {"prompt": "How many apples?", "method": "treebon", "n": 3, "options": {"layers": 2}}),
    ("fork", {"candidate": "", "children": ["0", "1", "2"]}),
    ("extend", {"candidate": "0", "tokens": 4, "text": "3 + 4", "state": "live"}),
    ("extend", {"candidate": "1", "tokens": 4, "text": "3 * 4", "state": "live"}),
    ("extend", {"candidate": "2", "tokens": 2, "text": "7", "state": "finished"}),
    ("score", {"candidate": "0", "tokens": 4, "score": 0.5, "reward": "r"}),
    ("score", {"candidate": "1", "tokens": 4, "score": -0.5, "reward": "r"}),
    ("drop", {"candidate": "1", "tokens": 4, "state": "dropped"}),
    ("fork", {"candidate": "0", "children": ["0.0", "0.1"]}),
    ("drop", {"candidate": "0", "tokens": 4, "state": "dropped"}),
    ("extend", {"candidate": "0.0", "tokens": 6, "text": "3 + 4 = 7", "state": "finished"}),
    ("extend", {"candidate": "0.1", "tokens": 9, "text": "3 + 4 = 12 or", "state": "length"}),
    ("score", {"candidate": "0.0", "tokens": 6, "score": 0.9, "reward": "r"}),
    ("step", {"live_rows": 3}),
    ("result", {"text": "3 + 4 = 7", "reward": 0.9, "method": "treebon", "chosen": "0.0",
                "usage": {"target": PAGE, "draft": {}, "reward": {}, "reference": {}, "flops": 1e6,
                          "peak_kv_tokens": 20, "wall_seconds": 0.1}}),
]


@pytest.fixture
def events():
    """(event, fields) pairs of one request."""
    return [(event, dict(fields)) for event, fields in EVENTS]
