"""What shared knowledge leaks about clients' training samples: attacks that use only what a server receives."""
