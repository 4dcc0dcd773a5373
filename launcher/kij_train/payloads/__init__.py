"""Scripts that run in the pods, each in one file that needs Python and torch alone."""
