import json
from dataclasses import asdict
from pathlib import Path

from atspeed.benchmark import CatalogBenchmark


def test_catalogs_are_measured_each_in_its_own_process(tmp_path: Path) -> None:
    result = CatalogBenchmark(num_items=(500, 5000), num_codes=32, out=tmp_path).run()
    written = json.loads((tmp_path / "benchmark" / "catalogs.json").read_text())
    assert written == asdict(result)
    small, large = written["rows"]
    assert small["items"] == 500
    assert small["nodes"] < large["nodes"] < 1 + 32 + 32**2 + 2 * 5000
    assert small["bytes_a_node"] == large["bytes_a_node"] == 64
    assert all(value > 0 for row in written["rows"] for value in row.values())
