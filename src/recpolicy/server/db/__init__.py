"""What the server remembers: events, feedback, rewards, versions, rollouts, jobs, keys and an audit."""
