"""The clients' halves: what each method's client learns and says."""
