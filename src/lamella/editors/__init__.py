"""JSON Schemas of the config files, from which an editor completes, explains and checks what is written."""
