"""The commands as the shell sees them: arguments, help, and a call of the module that does the work."""
