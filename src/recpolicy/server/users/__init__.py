"""Users who learn while the server serves: each one's posterior, from the ratings that the store keeps."""
