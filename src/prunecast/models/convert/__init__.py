"""How published implementations name and shape the tensors of the models that we have too."""
