"""The strategy engine as a service: recommend strategies, keep profiles of users who agreed, and learn every week."""
