"""Lightning callbacks: what happens during a run."""
