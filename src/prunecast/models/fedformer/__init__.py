"""FEDformer."""
