"""Train several runs as one program."""
