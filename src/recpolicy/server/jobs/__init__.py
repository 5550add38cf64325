"""What the server does by itself: training, evaluation, checks of drift and of rollouts."""
