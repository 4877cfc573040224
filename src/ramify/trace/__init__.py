"""The event stream of a run: written by the engine, read by the viewers and the benchmarks."""

from ramify.trace.jsonl import Row, RowWriter, read_rows
from ramify.trace.reader import Node, Traced, read_trace
from ramify.trace.writer import Trace

__all__ = ["Node", "Row", "RowWriter", "Trace", "Traced", "read_rows", "read_trace"]
