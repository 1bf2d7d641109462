"""Where reference values come from: the state that pipelines publish to, or a signed folder."""
