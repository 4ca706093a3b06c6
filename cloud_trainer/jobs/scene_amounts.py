"""How many recorded episodes say how a scene is: what flows choose and what jobs look at."""

MOST_HERE = 200
"""Newest episodes of a scene that are looked at."""
TRACKER_EPISODES = 60
"""From elsewhere, to learn reading the gripper from; spread over all there are, as the first ones may be of one task,
and a tracker misreads poses it has not seen."""
