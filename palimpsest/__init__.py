"""The command line and the supervisor that runs everything on one machine."""
