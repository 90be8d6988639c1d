"""Many runs: planned from one command line, launched, searched and ranked."""
