"""What a network and its compressed form have in common, and what each step of a run does."""
