"""Run commands in forks of a server that has imported everything."""
