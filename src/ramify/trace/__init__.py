"""The event stream of a run: written by the engine, read by the viewer and the benchmarks."""
