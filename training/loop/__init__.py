"""The training loop: steps, checkpoints, test losses, alarms, and what a person sees while it runs. It knows no family."""
