"""What a workload has loaded: statements of measurers, verified on the bytes that are parsed."""
