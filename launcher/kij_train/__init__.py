"""kij-train: launch a PyTorch script on N Kubernetes pods, or N local processes, as one job."""

__all__ = ["__version__"]

__version__ = "0.1.0"
