"""The parts of `evaluate`: tasks and runs, what is measured of them, and the report that shows it."""
