"""Secure sums: stages around the wire, so that the server learns what clients say together and not what each says."""
