"""A world model as a service: WorldArena's HTTP JSON API, so that others' harnesses can dream in it.

Source:
    WorldArena 2.0, "Track 2: Candidate World Model Service API", version 1.0 (WorldArena2/WorldArena-2.0).
"""
