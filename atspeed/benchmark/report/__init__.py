"""What the benchmarks show: JSON files, tables, figures and a page."""
