"""What the robot's nodes run: episodes, evaluations, orders, adaptations, the policy in force; no ROS in here."""
