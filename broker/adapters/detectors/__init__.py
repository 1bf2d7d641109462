"""Reports of detectors over HTTP, one dialect a module, all ending in `broker.model.detection`."""
