"""What lies in ``deploy/`` is what the code makes."""
