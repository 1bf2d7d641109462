"""The plugs: one family a folder; families never touch."""
