"""What a policy would earn, estimated from rounds that another policy logged, one action a round."""
