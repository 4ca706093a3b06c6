"""OpenVLA and OpenVLA-OFT: our own classes that read the published checkpoints' tensors by name."""
