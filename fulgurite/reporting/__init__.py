"""Records, tables, plots and pages of a run."""
