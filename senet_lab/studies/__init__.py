"""Many trainings: rows, plan, driver, executors, store, tracking."""
