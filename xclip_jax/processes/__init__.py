"""One run on several hosts: how processes find each other, stop together, and notice a loss."""
