"""The main job: the whole loop on one machine, measured against ground truth."""
