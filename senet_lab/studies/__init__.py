"""Many trainings: rows, plan, driver, executors, store, export."""
