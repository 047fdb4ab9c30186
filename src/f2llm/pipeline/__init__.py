"""Runs a recipe: `plan` says which steps there are, `runner` runs the stale ones, `steps` does the work."""
