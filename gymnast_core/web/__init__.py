"""Pages for operators: access, how they look, how they stay live. The console and a robot's page are Sites."""
