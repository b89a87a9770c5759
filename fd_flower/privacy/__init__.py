"""Secure sums: protocols around the wire, by which the server learns the sum of replies and no single one."""
