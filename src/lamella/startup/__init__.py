"""Lets commands start fast: modules that are imported when they are used."""
