"""Flags of the commands: from typed settings to a parser, help, config files and results."""
