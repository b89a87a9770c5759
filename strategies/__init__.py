"""The servers' halves: what each method makes of what it hears."""
