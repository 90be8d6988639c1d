"""One run: built from a config, trained, resumed, evaluated and loaded."""
