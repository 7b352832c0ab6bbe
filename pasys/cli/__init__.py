"""The command line: one file per noun that a person types. Parse, ask one service function, show."""
