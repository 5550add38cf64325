"""Kubeflow pipelines: steps (files in, files out), components, pipeline definitions, runners and submission."""
