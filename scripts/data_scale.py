"""Time and memory of preparing large data: 10 million interactions with a million items, embeddings of 768 dimensions.

``python scripts/data_scale.py FOLDER`` writes about 4 GB into the folder and prints the table of docs/data.md.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

INTERACTIONS, USERS, ITEMS, DIM = 10_000_000, 500_000, 1_000_000, 768
CHUNK = 50_000


def write_interactions(file: Path) -> None:
    """Write a CSV file in which each item occurs, some much more often than others, in no order."""
    rng = np.random.default_rng(0)
    popular = np.minimum(rng.zipf(1.2, INTERACTIONS - ITEMS), ITEMS) - 1
    items = rng.permutation(np.concatenate((np.arange(ITEMS), popular)))
    users = rng.integers(USERS, size=INTERACTIONS)
    times = rng.integers(1_600_000_000, 1_700_000_000, size=INTERACTIONS)
    pyarrow.csv.write_csv(pa.table({"user": users, "item": items, "timestamp": times}), file)


def write_embeddings(file: Path) -> None:
    """Write embeddings around a thousand centres, with a million rows in float32."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, DIM)).astype(np.float32)
    embeddings = np.lib.format.open_memmap(file, "w+", np.float32, (ITEMS, DIM))
    for start in range(0, ITEMS, CHUNK):
        noise = rng.normal(size=(CHUNK, DIM)).astype(np.float32)
        embeddings[start : start + CHUNK] = centres[rng.integers(1000, size=CHUNK)] + noise
    embeddings.flush()


def measure(name: str, *arguments: str) -> None:
    """Run a command line of atspeed, and print its duration and its peak of memory."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "atspeed", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} failed")
    seconds, gigabytes = time.perf_counter() - begin, usage.ru_maxrss * 1024 / 1e9
    print(f"| {name} | {seconds:.0f} | {gigabytes:.1f} |", flush=True)


def main(folder: Path) -> None:
    """Generate everything, and measure each command."""
    folder.mkdir(parents=True)
    csv, embeddings, sids = folder / "ratings.csv", folder / "items.npy", folder / "sids"
    write_interactions(csv)
    write_embeddings(embeddings)
    raw, data = folder / "raw", folder / "data"
    prepared = ["--data.source", "Prepared", "--data.source.root"]
    print("| command | seconds | GB |\n| --- | --: | --: |")
    source = ["--data.source", "Interactions", "--data.source.path", str(csv)]
    measure("`prepare`, 10 million rows of CSV", "prepare", *source, "--out", str(raw))
    options = ["--embeddings", str(embeddings), "--out", str(sids)]
    measure("`semantic-ids`, 1 million × 768, 3 × 256 codes", "semantic-ids", *prepared, str(raw), *options)
    with_sids = [*prepared, str(raw), "--data.source.sids", str(sids / "sids.parquet")]
    measure("`prepare`, with the semantic IDs", "prepare", *with_sids, "--out", str(data))
    options = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    options += ["--trainer.default_root_dir", str(folder / "run"), *prepared, str(data)]
    measure("`fit`, from the start to the export after one step", "fit", "--config", "target.yaml", *options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
