"""The dashboard: one file per screen, over the same services as the command line, and without a query of its own."""
