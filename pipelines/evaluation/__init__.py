"""The parts of `evaluate`: tasks and runs, and what is measured of them; `report/` shows it."""
