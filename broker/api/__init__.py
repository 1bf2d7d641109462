"""The doors: the only room that knows gRPC or HTTP."""
