import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.nightly
def test_precisions_are_compared_on_a_tiny_target(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.gpu.precision", "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = json.loads((tmp_path / "precision.json").read_text())["rows"]
    dtypes = ["float32", "bfloat16", "int8_weights", "float8_e4m3fn_weights"]
    assert [row["precision"] for row in rows] == [dtype for dtype in dtypes for _ in range(3)]
    for row in rows:
        assert row["illegal"] == row["duplicates"] == 0
        compared = row["beside_generate"]
        assert (compared is None) == (row["method"] == "generate")
        assert compared is None or compared["noise"] < (1e-4 if row["precision"] == "float32" else 0.15)
    for exact in rows[1:3]:
        assert exact["beside_generate"]["identical"] == 1
    assert [row["weight_gb"] / rows[0]["weight_gb"] for row in rows[3::3]] == pytest.approx([0.5, 0.27, 0.27], abs=0.02)
    assert (tmp_path / "precision.md").read_text().count("\n| ") == 14
