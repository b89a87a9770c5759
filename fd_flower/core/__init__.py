"""What everything stands on: errors, random numbers, checked options, samples, clients, files."""
