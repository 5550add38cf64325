"""The database of the server: events, feedback, rewards, versions, rollouts, jobs, keys and an audit."""
