"""What is done at a desk, without a service: datasets, world models, measurements, the shipped checkpoints."""
