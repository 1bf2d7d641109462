"""Where credentials are made and taken back."""
