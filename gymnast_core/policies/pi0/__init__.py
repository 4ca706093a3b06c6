"""pi0 and pi0.5 as policies: published folders in, our checkpoints out."""
