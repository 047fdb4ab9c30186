"""Runs a recipe: `plan` says which steps there are, `runner` runs those that are not up to date, `steps` does the work."""
