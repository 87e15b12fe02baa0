"""What one GPU runs of a model, in PyTorch, and how long it takes. Everything here but `samples` imports PyTorch."""
