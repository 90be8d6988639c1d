"""Plan, launch, search and rank many runs."""
