"""The training loop: steps, checkpoints, test losses, alarms and progress. It does not depend on a family."""
